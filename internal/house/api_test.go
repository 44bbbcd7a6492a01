package house

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

const apiFile = "../../docs/api.txt"

// What users compile against is written down, so that no change of it is made by accident: a
// line that is gone, or differs, breaks somebody.
//
// Case api: The public API is written down, and changes by nobody's accident.
func TestPublicAPIIsWrittenDown(t *testing.T) {
	racetest.Skip(t)
	var now bytes.Buffer
	all := packages(t)
	slices.SortFunc(all, func(a, b pkg) int { return cmp.Compare(a.ImportPath, b.ImportPath) })
	for _, p := range all {
		if public(p) && !strings.HasPrefix(p.room(), "services/") && len(p.GoFiles) > 0 {
			fmt.Fprintf(&now, "package %s\n\n", p.ImportPath)
			for _, line := range api(t, p) {
				fmt.Fprintln(&now, line)
			}
			fmt.Fprintln(&now)
		}
	}
	if *update {
		if err := os.WriteFile(apiFile, now.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	written, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	gone, added := difference(string(written), now.String())
	if len(gone)+len(added) > 0 {
		t.Errorf("the public API is not that of docs/api.txt. What is gone or differs breaks users:\n%s\nWhat is there now:\n%s\nIf that is meant, name it in CHANGELOG.md and run `make api`.",
			strings.Join(gone, "\n"), strings.Join(added, "\n"))
	}
}

// difference returns the lines that only the one has, and those that only the other has, each
// after the package or type that it is of.
func difference(before, after string) (gone, added []string) {
	one, other := qualified(before), qualified(after)
	for _, line := range slices.Sorted(maps.Keys(one)) {
		if !other[line] {
			gone = append(gone, "- "+line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(other)) {
		if !one[line] {
			added = append(added, "+ "+line)
		}
	}
	return gone, added
}

func qualified(text string) map[string]bool {
	lines := map[string]bool{}
	room, decl := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "package "):
			room = strings.TrimPrefix(line, "package ")
		case !strings.HasPrefix(line, "\t") && line != "}" && line != ")":
			decl = line
		}
		lines[room+": "+decl+": "+strings.TrimSpace(line)] = true
	}
	return lines
}

// api is what a package exports, sorted and without comments and bodies.
func api(t *testing.T, p pkg) []string {
	var decls []string
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0) // of its own: it is cut
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(file)
		for _, d := range file.Decls {
			decls = append(decls, exported(t, d)...)
		}
	}
	slices.Sort(decls)
	return decls
}

// exported is what of a declaration users see: one text for each function, type and value.
func exported(t *testing.T, d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil && !token.IsExported(receiver(d.Recv)) {
			return nil
		}
		d.Body = nil
		return []string{text(t, d)}
	case *ast.GenDecl:
		var all []string
		for n, s := range d.Specs {
			if _, isImport := s.(*ast.ImportSpec); isImport {
				continue
			}
			if v, isValue := s.(*ast.ValueSpec); isValue && d.Tok == token.VAR {
				v.Values = nil // its value may change, its type not
			}
			if v, isValue := s.(*ast.ValueSpec); isValue && d.Tok == token.CONST && len(v.Values) == 0 {
				all = append(all, fmt.Sprintf("const %s // number %d of its block", v.Names[0].Name, n))
				continue
			}
			all = append(all, text(t, &ast.GenDecl{Tok: d.Tok, Specs: []ast.Spec{s}}))
		}
		return all
	}
	return nil
}

func text(t *testing.T, d ast.Decl) string {
	t.Helper()
	ast.Inspect(d, func(n ast.Node) bool { // without a remark on what is not exported
		switch n := n.(type) {
		case *ast.StructType:
			n.Incomplete = false
		case *ast.InterfaceType:
			n.Incomplete = false
		}
		return true
	})
	var out bytes.Buffer
	if err := format.Node(&out, token.NewFileSet(), d); err != nil {
		t.Fatal(err)
	}
	return strings.Join(slices.DeleteFunc(strings.Split(out.String(), "\n"), func(line string) bool { return strings.TrimSpace(line) == "" }), "\n")
}

// What is compared names what is gone: a method, a field, a parameter.
func TestDifferencesOfTheAPIAreNamed(t *testing.T) {
	const before = "package p\n\nfunc F(a int)\ntype T struct {\n\tA int\n\tB int\n}\n"
	for name, test := range map[string]struct{ after, gone, added string }{
		"nothing":     {before, "", ""},
		"a field":     {"package p\n\nfunc F(a int)\ntype T struct {\n\tA int\n}\n", "- p: type T struct {: B int", ""},
		"a parameter": {"package p\n\nfunc F(a string)\ntype T struct {\n\tA int\n\tB int\n}\n", "- p: func F(a int): func F(a int)", "+ p: func F(a string): func F(a string)"},
		"a package":   {"package q\n\nfunc F(a int)\ntype T struct {\n\tA int\n\tB int\n}\n", "- p: ", "+ q: "},
	} {
		t.Run(name, func(t *testing.T) {
			gone, added := difference(before, test.after)
			for _, side := range []struct {
				lines []string
				want  string
			}{{gone, test.gone}, {added, test.added}} {
				if got := strings.Join(side.lines, "\n"); !strings.HasPrefix(got, side.want) || (side.want == "") != (got == "") {
					t.Errorf("the difference is %q, want %q", got, side.want)
				}
			}
		})
	}
}
