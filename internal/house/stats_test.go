package house

import (
	"go/ast"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

var snakeCase = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*(,omit(empty|zero))?$`)

// Figures are read by pages, scripts and programs under one name each: every exported
// Stats, and what it is made of, has its names in JSON.
func TestStatsHaveTheirNamesInJSON(t *testing.T) {
	racetest.Skip(t)
	structs := 0
	for _, p := range packages(t) {
		if !public(p) {
			continue
		}
		for _, name := range p.GoFiles {
			ast.Inspect(parse(t, filepath.Join(p.Dir, name)), func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok || !spec.Name.IsExported() || !strings.HasSuffix(spec.Name.Name, "Stats") {
					return true
				}
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs++
					for _, field := range s.Fields.List {
						if tag := jsonName(field); len(field.Names) > 1 || len(field.Names) == 1 && !snakeCase.MatchString(tag) {
							t.Errorf("%s: %s.%v has %q in JSON: write json:\"snake_case\", one field a line", p.room(), spec.Name, field.Names, tag)
						}
					}
				}
				return false
			})
		}
	}
	if structs < 10 {
		t.Errorf("only %d structs were checked", structs)
	}
}

func jsonName(field *ast.Field) string {
	if field.Tag == nil {
		return ""
	}
	return reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json")
}
