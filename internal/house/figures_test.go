package house

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

// mostFilesOfAType is in how many files the methods of a type lie at most.
const mostFilesOfAType = 3

// figures are those of some code as a reader meets it.
type figures struct {
	lengths           []int // of functions, in lines
	exports, bare     int   // bare ones have no comment
	comments, telling int   // lines, and words in them that are for people
	options           int   // functions called With...
	methods           map[string]map[string]int
}

var telling = regexp.MustCompile(`(?i)\b(tell|tells|told|telling)\b`)

// add counts the file at path. Types are named after room or, if that is "", their package.
func (f *figures) add(t *testing.T, room, path string) {
	t.Helper()
	tree := parse(t, path)
	for _, group := range tree.Comments {
		for _, c := range group.List {
			f.comments += strings.Count(c.Text, "\n") + 1
			f.telling += len(telling.FindAllString(c.Text, -1))
		}
	}
	for _, d := range tree.Decls {
		f.bare += len(undocumented(d))
		f.exports += exports(d)
		function, ok := d.(*ast.FuncDecl)
		if !ok || function.Body == nil {
			continue
		}
		f.lengths = append(f.lengths, fileSet.Position(function.End()).Line-fileSet.Position(function.Pos()).Line+1)
		if function.Recv == nil {
			if strings.HasPrefix(function.Name.Name, "With") {
				f.options++
			}
			continue
		}
		kind := cmp.Or(room, tree.Name.Name) + "." + receiver(function.Recv)
		if f.methods == nil {
			f.methods = map[string]map[string]int{}
		}
		if f.methods[kind] == nil {
			f.methods[kind] = map[string]int{}
		}
		f.methods[kind][filepath.Base(path)]++
	}
}

// exports counts the exported names of a declaration.
func exports(d ast.Decl) (n int) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || token.IsExported(receiver(d.Recv))) {
			return 1
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					n++
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() {
					n++
				}
			}
		}
	}
	return n
}

// largest is the type with the most methods.
func (f *figures) largest() string {
	most, text := 0, "-"
	for kind, files := range f.methods {
		n := 0
		for _, m := range files {
			n += m
		}
		if n > most {
			most, text = n, fmt.Sprintf("%s: %d in %d", kind, n, len(files))
		}
	}
	return text
}

// row is a line of the table.
func (f *figures) row(name string) string {
	slices.Sort(f.lengths)
	n := len(f.lengths)
	if n == 0 {
		return name + "\t(no code)"
	}
	return fmt.Sprintf("%s\t%d\t%d/%d/%d\t%d%%\t%d in %d\t%d\t%s", name, n, f.lengths[n/2], f.lengths[n*9/10], f.lengths[n-1],
		100*(f.exports-f.bare)/max(f.exports, 1), f.telling, f.comments, f.options, f.largest())
}

// Figures of the code as a reader meets it, beside those of its models:
//
//	go test -v -run 'Figures|AMiss' ./internal/house
func TestFiguresOfTheCode(t *testing.T) {
	racetest.Skip(t)
	var all, imported, root, ofCache figures
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			if strings.HasSuffix(name, ".pb.go") {
				continue
			}
			path := filepath.Join(p.Dir, name)
			all.add(t, p.room(), path)
			if public(p) {
				imported.add(t, p.room(), path)
			}
			switch p.room() {
			case "":
				root.add(t, "", path)
			case "interceptors/cache":
				ofCache.add(t, "", path)
			}
		}
	}
	for kind, files := range all.methods {
		if len(files) > mostFilesOfAType {
			t.Errorf("the methods of %s lie in %d files, want at most %d: %v", kind, len(files), mostFilesOfAType, files)
		}
	}
	if !testing.Verbose() {
		return
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "code\tfunctions\tlines: median/p90/longest\texports documented\ttell/told in comment lines\tWith...\tmost methods of a type: in files")
	fmt.Fprintln(w, all.row("meshlite"))
	fmt.Fprintln(w, imported.row("what users import"))
	fmt.Fprintln(w, root.row("its front door"))
	fmt.Fprintln(w, ofCache.row("its cache"))
	for _, model := range []struct{ module, under, from string }{
		{"connectrpc.com/connect", ".", "../connecttest"},
		{"github.com/maypok86/otter/v2", ".", "."},
		{"google.golang.org/grpc", ".", "."},
		{"google.golang.org/grpc", "balancer", "."},
		{"golang.org/x/time", "rate", "."},
		{"github.com/grpc-ecosystem/go-grpc-middleware/v2", ".", "."},
	} {
		fmt.Fprintln(w, modelFigures(t, model.module, model.under, model.from).row(filepath.Join(filepath.Base(strings.TrimSuffix(model.module, "/v2")), model.under)))
	}
	_ = w.Flush()
	t.Log("\n" + table.String())
}

// modelFigures counts the code of a module below the folder under, without what is generated
// or not imported: tests, examples, programs, internal rooms.
func modelFigures(t *testing.T, module, under, from string) *figures {
	t.Helper()
	f := &figures{}
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = from
	out, err := cmd.Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Logf("%s is not on this machine: %v", module, err)
		return f
	}
	top := filepath.Join(dir, under)
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && path != top && slices.Contains([]string{"testdata", "examples", "cmd", "internal", "testing"}, name):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go"):
			return nil
		}
		f.add(t, "", path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}
