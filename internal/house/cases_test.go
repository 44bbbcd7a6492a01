package house

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

var update = flag.Bool("update", false, "write docs/cases.md anew")

// A case is named in the doc comment of each test that keeps it, "// Case R4", and in one
// of them with the sentence that must hold, "// Case R4: An outage fails no call."
var caseLine = regexp.MustCompile(`^Case ([^:]{1,40})(?:: (.*))?$`)

// kept is a case and what keeps it.
type kept struct {
	name, sentence string
	tests          map[string][]string // by room
}

// docs/cases.md lists case -> test. It is made from comments, so it names no test that does
// not exist, and a case whose last test is gone is missed.
func TestCasesAreListed(t *testing.T) {
	racetest.Skip(t)
	cases := map[string]*kept{}
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			file := parse(t, filepath.Join(p.Dir, name))
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Doc != nil {
					noteCases(t, cases, p.room(), f.Name.Name, f.Doc)
				}
			}
		}
	}
	noteRows(t, cases)
	page := casesPage(t, cases)
	path := filepath.Join("..", "..", "docs", "cases.md")
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != page {
		t.Error("docs/cases.md is not what the comments of the tests say: run `make cases` and commit")
	}
}

// noteCases reads the lines of a doc comment that name a case. A sentence goes on to the
// next case, an empty line, or the end.
func noteCases(t *testing.T, cases map[string]*kept, room, test string, doc *ast.CommentGroup) {
	t.Helper()
	var last *kept
	for line := range strings.SplitSeq(doc.Text(), "\n") {
		line = strings.TrimSpace(line)
		match := caseLine.FindStringSubmatch(line)
		switch {
		case match != nil:
			last = note(cases, match[1], room, test)
			if match[2] == "" {
				last = nil
				continue
			}
			if last.sentence != "" {
				t.Errorf("%s: case %s has its sentence already, elsewhere: write `// Case %s` alone", test, match[1], match[1])
			}
			last.sentence = match[2]
		case line == "":
			last = nil
		case last != nil:
			last.sentence += " " + line
		}
	}
}

func note(cases map[string]*kept, name, room, test string) *kept {
	c := cases[name]
	if c == nil {
		c = &kept{name: name, tests: map[string][]string{}}
		cases[name] = c
	}
	if !slices.Contains(c.tests[room], test) {
		c.tests[room] = append(c.tests[room], test)
	}
	return c
}

// noteRows reads which row of `make chaos` keeps which case.
func noteRows(t *testing.T, cases map[string]*kept) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "chaos", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`// Case ([\w, ]+)\n\s*name:\s*"([^"]+)"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range row.FindAllStringSubmatch(string(text), -1) {
			for name := range strings.SplitSeq(match[1], ", ") {
				note(cases, name, "make chaos", match[2])
			}
		}
	}
}

func casesPage(t *testing.T, cases map[string]*kept) string {
	t.Helper()
	var page strings.Builder
	page.WriteString("# Cases\n\nWhat must hold, and which tests keep it. Made from the comments of the tests: `make cases`.\n\n| case | what must hold | kept by |\n| --- | --- | --- |\n")
	for _, name := range slices.SortedFunc(maps.Keys(cases), byCase) {
		c := cases[name]
		if c.sentence == "" {
			t.Errorf("no test says what case %s is: write `// Case %s: what must hold.` in one", name, name)
		}
		var by []string
		for _, room := range slices.Sorted(maps.Keys(c.tests)) {
			slices.Sort(c.tests[room])
			by = append(by, fmt.Sprintf("%s: %s", cmp.Or(room, "root"), strings.Join(c.tests[room], ", ")))
		}
		fmt.Fprintf(&page, "| %s | %s | %s |\n", name, strings.ReplaceAll(c.sentence, "|", `\|`), strings.Join(by, "; "))
	}
	return page.String()
}

// byCase sorts R2 before R10, and cases with a letter and a number before others.
func byCase(a, b string) int {
	split := func(name string) (rank int, letter string, number int, rest string) {
		match := regexp.MustCompile(`^([A-Z])(\d+)(.*)$`).FindStringSubmatch(name)
		if match == nil {
			return 1, "", 0, name
		}
		number, _ = strconv.Atoi(match[2])
		return 0, match[1], number, match[3]
	}
	ar, al, an, at := split(a)
	br, bl, bn, bt := split(b)
	const order = "RGPFCLMXEIT"
	return cmp.Or(cmp.Compare(ar, br), cmp.Compare(strings.Index(order, al), strings.Index(order, bl)), cmp.Compare(an, bn), cmp.Compare(at, bt))
}
