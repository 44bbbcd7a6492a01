package house

import (
	"bufio"
	"bytes"
	"go/ast"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mostFilesOfAMiss is how many files a reader opens at most who follows one unary call
// that is not cached through client and server.
const mostFilesOfAMiss = 25

// A reader of one call passes few files.
func TestAMissRunsInFewFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program with coverage: run without -short")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "onecall")
	build := exec.Command("go", "build", "-cover", "-covermode=atomic", "-coverpkg="+module+"/...", "-o", program, "./onecall")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	if out, err := exec.Command(program, dir).CombinedOutput(); err != nil {
		t.Fatalf("onecall: %v\n%s", err, out)
	}
	for _, call := range []string{"miss", "hit", "server"} {
		ran := ranBy(t, filepath.Join(dir, call))
		functions := 0
		for _, names := range ran {
			functions += len(names)
		}
		t.Logf("%s: %d functions in %d files", call, functions, len(ran))
		if testing.Verbose() {
			for _, file := range slices.Sorted(maps.Keys(ran)) {
				t.Logf("    %s: %s", file, strings.Join(ran[file], " "))
			}
		}
		if functions < 10 {
			t.Errorf("%s: only %d functions ran: the measure is broken", call, functions)
		}
		if call == "miss" && len(ran) > mostFilesOfAMiss {
			t.Errorf("a miss runs in %d files, want at most %d: %v", len(ran), mostFilesOfAMiss, slices.Sorted(maps.Keys(ran)))
		}
	}
}

// ranBy reads which functions of the library ran, by file. What stands in for others
// (internal, consultest), what answers (services) and generated code is left out.
func ranBy(t *testing.T, dir string) map[string][]string {
	t.Helper()
	profile := filepath.Join(dir, "profile")
	if out, err := exec.Command("go", "tool", "covdata", "textfmt", "-i="+dir, "-o="+profile).CombinedOutput(); err != nil {
		t.Fatalf("covdata: %v\n%s", err, out)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][]int{} // first lines of blocks that ran, by file
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		var count, from int
		file, rest, _ := strings.Cut(scanner.Text(), ":")
		fields := strings.Fields(rest)
		if len(fields) != 3 {
			continue
		}
		if count, err = strconv.Atoi(fields[2]); err != nil || count == 0 {
			continue
		}
		if from, err = strconv.Atoi(rest[:strings.IndexByte(rest, '.')]); err != nil {
			t.Fatal(err)
		}
		file = roomOf(file)
		if !aside.MatchString(file) {
			lines[file] = append(lines[file], from)
		}
	}
	ran := map[string][]string{}
	for file, at := range lines {
		ran[file] = functionsAt(t, file, at)
	}
	return ran
}

var aside = regexp.MustCompile(`^(internal/house|internal/cli|services|resolver/consultest|proto)/|\.pb\.go$`)

// functionsAt names the functions of file that the lines lie in.
func functionsAt(t *testing.T, file string, lines []int) []string {
	t.Helper()
	var names []string
	for _, d := range parse(t, filepath.Join("..", "..", file)).Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		from, to := fileSet.Position(f.Pos()).Line, fileSet.Position(f.End()).Line
		if slices.ContainsFunc(lines, func(line int) bool { return from <= line && line <= to }) {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

func receiver(recv *ast.FieldList) string {
	kind := recv.List[0].Type
	for {
		switch k := kind.(type) {
		case *ast.StarExpr:
			kind = k.X
		case *ast.IndexExpr:
			kind = k.X
		case *ast.IndexListExpr:
			kind = k.X
		case *ast.Ident:
			return k.Name
		default:
			return "?"
		}
	}
}
