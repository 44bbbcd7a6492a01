package house

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
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
const mostFilesOfAMiss = 24

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
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, filepath.Join("..", "..", file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		from, to := set.Position(f.Pos()).Line, set.Position(f.End()).Line
		if slices.ContainsFunc(lines, func(line int) bool { return from <= line && line <= to }) {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

// Figures of the code as a reader meets it: go test -v -run Figures ./internal/house
func TestFiguresOfTheCode(t *testing.T) {
	var lengths []int
	exports, documented, comments, personal, options := 0, 0, 0, 0, 0
	methods := map[string]map[string]int{} // by type, by file
	tell := regexp.MustCompile(`(?i)\b(tell|tells|told|telling)\b`)
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			if strings.HasSuffix(name, ".pb.go") {
				continue
			}
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range tree.Comments {
				for _, c := range group.List {
					comments += strings.Count(c.Text, "\n") + 1
					personal += len(tell.FindAllString(c.Text, -1))
				}
			}
			for _, d := range tree.Decls {
				missing := undocumented(d)
				documented -= len(missing)
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Body == nil {
					continue
				}
				lengths = append(lengths, set.Position(f.End()).Line-set.Position(f.Pos()).Line+1)
				if f.Name.IsExported() {
					exports++
				}
				if p.room() == "" && f.Recv == nil && strings.HasPrefix(f.Name.Name, "With") {
					options++
				}
				if f.Recv != nil {
					kind := p.room() + "." + receiver(f.Recv)
					if methods[kind] == nil {
						methods[kind] = map[string]int{}
					}
					methods[kind][name]++
				}
			}
		}
	}
	slices.Sort(lengths)
	t.Logf("functions: %d; lines: median %d, p90 %d, longest %d", len(lengths), lengths[len(lengths)/2], lengths[len(lengths)*9/10], lengths[len(lengths)-1])
	t.Logf("exported functions: %d, %d exports without a comment", exports, -documented)
	t.Logf("comment lines: %d, tell/told in them: %d", comments, personal)
	t.Logf("options of the root: %d", options)
	var scattered []string
	for kind, files := range methods {
		if len(files) > 3 {
			n := 0
			for _, m := range files {
				n += m
			}
			scattered = append(scattered, fmt.Sprintf("%s: %d methods in %d files", kind, n, len(files)))
		}
	}
	slices.Sort(scattered)
	if len(scattered) > 0 {
		t.Errorf("types whose methods lie in more than three files: %d\n%s", len(scattered), strings.Join(scattered, "\n"))
	}
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
