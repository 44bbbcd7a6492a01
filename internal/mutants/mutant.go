package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// mutant is one change of one place in a file.
type mutant struct {
	file     string
	line     int
	from, to int // bytes of source that are replaced
	source   []byte
	with     string
	what     string // for the reader
}

// text is the file with the change.
func (m mutant) text() []byte {
	return slices.Concat(m.source[:m.from], []byte(m.with), m.source[m.to:])
}

func (m mutant) String() string {
	name := m.file
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, m.file); err == nil {
			name = rel
		}
	}
	return fmt.Sprintf("%s:%d %s", name, m.line, m.what)
}

// mutantsOf returns the mutants of a file, by line.
func mutantsOf(name string, source []byte) ([][]mutant, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	w := &walk{name: name, source: source, file: fset.File(file.Pos())}
	ast.Inspect(file, w.visit)
	slices.SortStableFunc(w.found, func(a, b mutant) int { return a.line - b.line })
	var lines [][]mutant
	for i, m := range w.found {
		if i == 0 || m.line != w.found[i-1].line {
			lines = append(lines, nil)
		}
		lines[len(lines)-1] = append(lines[len(lines)-1], m)
	}
	return lines, nil
}

// walk collects the mutants of one file.
type walk struct {
	name   string
	source []byte
	file   *token.File
	found  []mutant
}

func (w *walk) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Name.Name == "String" && n.Recv != nil || n.Body == nil {
			return false
		}
		w.early(n.Type, n.Body)
	case *ast.FuncLit:
		w.early(n.Type, n.Body)
	case *ast.GenDecl:
		return n.Tok != token.IMPORT
	case *ast.BlockStmt:
		w.drop(n.List)
	case *ast.CaseClause:
		w.drop(n.Body)
	case *ast.CommClause:
		w.drop(n.Body)
	case *ast.BinaryExpr:
		w.operator(n)
	case *ast.IfStmt:
		w.condition(n)
	case *ast.BasicLit:
		if v, err := strconv.ParseInt(n.Value, 0, 64); err == nil && n.Kind == token.INT {
			w.add(n.Pos(), n.End(), strconv.FormatInt(v+1, 10), fmt.Sprintf("%s -> %d", n.Value, v+1))
		}
	}
	return true
}

var operators = map[token.Token][]string{
	token.LSS: {"<=", ">="}, token.LEQ: {"<", ">"},
	token.GTR: {">=", "<="}, token.GEQ: {">", "<"},
	token.EQL: {"!="}, token.NEQ: {"=="},
	token.LAND: {"||"}, token.LOR: {"&&"},
}

// operator turns one operator into its neighbors.
func (w *walk) operator(n *ast.BinaryExpr) {
	for _, other := range operators[n.Op] {
		w.add(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), other,
			fmt.Sprintf("%s: %s -> %s", w.excerpt(n), n.Op, other))
	}
}

// condition negates what is no comparison, since operator turns those around, and drops
// the else.
func (w *walk) condition(n *ast.IfStmt) {
	if b, ok := n.Cond.(*ast.BinaryExpr); !ok || b.Op == token.LAND || b.Op == token.LOR {
		w.add(n.Cond.Pos(), n.Cond.End(), "!("+w.at(n.Cond)+")", "negate "+w.excerpt(n.Cond))
	}
	if n.Else != nil {
		w.add(n.Body.End(), n.Else.End(), "", "drop the else of if "+w.excerpt(n.Cond))
		w.found[len(w.found)-1].line = w.file.Line(n.Else.Pos())
	}
}

// drop drops statements that may be left out.
func (w *walk) drop(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		case *ast.ExprStmt, *ast.IncDecStmt, *ast.SendStmt, *ast.DeferStmt, *ast.GoStmt, *ast.BranchStmt:
		default:
			continue
		}
		w.add(s.Pos(), s.End(), "", "drop "+w.excerpt(s))
	}
}

// early returns before a statement of a function. It must return nothing or an error
// alone: other zero values are noticed by any test.
func (w *walk) early(signature *ast.FuncType, body *ast.BlockStmt) {
	result := "return"
	if r := signature.Results; r != nil {
		if r.NumFields() != 1 || w.at(r.List[0].Type) != "error" {
			return
		}
		result = "return nil"
	}
	for _, s := range body.List {
		if _, ok := s.(*ast.ReturnStmt); !ok {
			w.add(s.Pos(), s.Pos(), result+"; ", result+" before "+w.excerpt(s))
		}
	}
}

func (w *walk) add(from, to token.Pos, with, what string) {
	w.found = append(w.found, mutant{
		file: w.name, line: w.file.Line(from), source: w.source,
		from: w.file.Offset(from), to: w.file.Offset(to), with: with, what: what,
	})
}

func (w *walk) at(n ast.Node) string {
	return string(w.source[w.file.Offset(n.Pos()):w.file.Offset(n.End())])
}

// excerpt is the node's first line, at most 60 bytes of it.
func (w *walk) excerpt(n ast.Node) string {
	first, _, _ := bytes.Cut([]byte(w.at(n)), []byte("\n"))
	return "`" + string(first[:min(60, len(first))]) + "`"
}
