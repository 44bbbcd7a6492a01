package identity_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// A metric has a series for each reason from the start on: all that the package declares.
//
// Case M2 (from 0)
func TestAllReasonsAreListed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "refusal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []identity.Reason
	for _, declaration := range file.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			value := spec.(*ast.ValueSpec)
			if name, ok := value.Type.(*ast.Ident); ok && name.Name == "Reason" {
				text, _ := strconv.Unquote(value.Values[0].(*ast.BasicLit).Value)
				declared = append(declared, identity.Reason(text))
			}
		}
	}
	listed := identity.Reasons()
	slices.Sort(declared)
	slices.Sort(listed)
	if len(declared) == 0 || !slices.Equal(declared, listed) {
		t.Errorf("%v are declared, %v listed", declared, listed)
	}
}

// Renewals and attempts that failed are counted by the source.
//
// Case metrics
func TestRenewalsAreCounted(t *testing.T) {
	source := &identity.Feed{}
	mtls := with(t, source)
	source.Fail(errors.New("away"))
	if s := mtls.Stats(); s.Source != (identity.SourceStats{Failed: 1}) || s.Service != "" || !s.ValidFrom.IsZero() {
		t.Errorf("%+v before the first certificate", s)
	}
	authority := certtest.New(t)
	for range 2 {
		source.Publish(snapshot(t, authority.IssueID(t, time.Hour, idOf("catalog").String()), authority))
	}
	s := mtls.Stats()
	if s.Source != (identity.SourceStats{Published: 2, Failed: 1}) || s.Service != "catalog" || !s.ValidFrom.Before(s.ValidUntil) {
		t.Errorf("%+v after two", s)
	}
}
