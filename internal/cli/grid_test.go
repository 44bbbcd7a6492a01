package cli

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestGridFitsByDroppingColumns(t *testing.T) {
	g := &grid{indent: 2, fields: []field{{head: "NAME", least: 6, begin: true}, {head: "EMPTY", drop: 1}, {head: "LATER", drop: 2}, {head: "FIRST", drop: 3}, {head: "STATE", least: 8}}}
	g.add("catalog-127-0-0-1", "-", "later", "first", "passing, not called: weight 0")
	g.add("Ä", "-", "l", "f", "ok")
	for width, want := range map[int]struct {
		first, row string
		omitted    []string
	}{
		0:  {"  NAME               EMPTY  LATER  FIRST  STATE", "  catalog-127-0-0-1  -      later  first  passing, not called: weight 0", nil},
		75: {"  NAME               EMPTY  LATER  FIRST  STATE", "  catalog-127-0-0-1  -      later  first  passing, not called: weight 0", nil},
		60: {"  NAME               EMPTY  LATER  FIRST  STATE", "  catalog-127-0-0-1  -      later  first  passing, not call…", nil},
		34: {"  NAME      LATER  FIRST  STATE", "  …7-0-0-1  later  first  passing…", nil}, // what is empty is no loss
		30: {"  NAME       LATER  STATE", "  …27-0-0-1  later  passing, …", []string{"FIRST"}},
		20: {"  NAME      STATE", "  …7-0-0-1  passing…", []string{"FIRST", "LATER"}},
		4:  {"  NAME    STATE", "  …0-0-1  passing…", []string{"FIRST", "LATER"}}, // narrower than anything
	} {
		lines, omitted := g.lines(width)
		if strings.TrimRight(lines[0], " ") != want.first || lines[1] != want.row || !slices.Equal(omitted, want.omitted) {
			t.Errorf("in %d it is\n%q\n%q\nwithout %v, want\n%q\n%q\nwithout %v", width, lines[0], lines[1], omitted, want.first, want.row, want.omitted)
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); width >= 20 && n > width {
				t.Errorf("a line of %d in %d: %q", n, width, line)
			}
		}
		if state := strings.Index(lines[0], "STATE"); len(lines) == 3 && strings.Index(lines[2], "ok") != state+1 { // a letter of two bytes stands before it
			t.Errorf("columns do not stand below each other: %q", lines)
		}
	}
}
