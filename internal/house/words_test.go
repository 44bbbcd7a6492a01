package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

// banned are words that a reader of gRPC, RFC 9111 and the SRE books stumbles over, and what
// to write instead. They are looked for in comments, those of tests included, in what programs
// print, and in documents.
var banned = map[string]string{
	"tell|tells|told|telling":     "returns, reports, publishes, records, is notified",
	"learn|learns|learned|learnt": "receives, reads, remembers",
	"hears?|heard":                "receives, is notified",
	"bears?|borne":                "takes, allows",
	"mends?|mended|mending":       "fixes",
	"heeds?":                      "obeys",
	"lain":                        "been stored",
	"frozen":                      "stalled",
	"mute":                        "silent",
	"petiole":                     "endpoint balancer",
	"signpost":                    "vary marker",
	"stand-in answer":             "stale answer",
	"nobody waiting":              "in the background",
	"of no matter":                "ignored",
	"in vain":                     "without success",
	"its due":                     "its expected share",
	"hangs the":                   "attaches the",
	"by and by":                   "gradually",
}

// mostBanned is how often they may stand all the same, where people are meant.
const mostBanned = 5

// Words that the field has another word for do not come back.
func TestWordsAreThoseOfTheField(t *testing.T) {
	racetest.Skip(t)
	var groups, instead, stems []string // one pass over all texts: each takes long under the race detector
	for _, words := range slices.Sorted(maps.Keys(banned)) {
		groups, instead = append(groups, "("+words+")"), append(instead, banned[words])
		for word := range strings.SplitSeq(words, "|") {
			stem, _ := regexp.MustCompile(word).LiteralPrefix()
			stems = append(stems, stem)
		}
	}
	pattern := regexp.MustCompile(`(?i)\b(?:` + strings.Join(groups, "|") + `)\b`)
	if pattern.NumSubexp() != len(groups) {
		t.Fatal("a group within banned words: write (?:...)")
	}
	var found []string
	texts := 0
	look := func(where, text string) {
		texts++
		lower := strings.ToLower(text)
		if !slices.ContainsFunc(stems, func(stem string) bool { return strings.Contains(lower, stem) }) {
			return // most texts, at a small part of what the pattern costs
		}
		for _, match := range pattern.FindAllStringSubmatchIndex(text, -1) {
			group := slices.IndexFunc(match[2:], func(at int) bool { return at >= 0 }) / 2
			found = append(found, fmt.Sprintf("%s: %q: write %s", where, text[match[0]:match[1]], instead[group]))
		}
	}
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			if !strings.HasSuffix(name, ".pb.go") && name != "words_test.go" {
				lookIntoGo(t, look, p.room()+"/"+name, filepath.Join(p.Dir, name))
			}
		}
	}
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		look(path, string(text))
	}
	if texts < 10_000 {
		t.Errorf("only %d texts were read: the test is broken", texts)
	}
	if len(found) > mostBanned {
		t.Errorf("%d banned words, want at most %d:\n%s", len(found), mostBanned, strings.Join(found, "\n"))
	}
}

// lookIntoGo looks into the comments of a file and, unless it is a test, its strings.
func lookIntoGo(t *testing.T, look func(where, text string), name, path string) {
	t.Helper()
	file := parse(t, path)
	at := func(n ast.Node) string { return fmt.Sprintf("%s:%d", name, fileSet.Position(n.Pos()).Line) }
	for _, group := range file.Comments {
		look(at(group), group.Text())
	}
	if strings.HasSuffix(name, "_test.go") {
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
			look(at(text), text.Value)
		}
		return true
	})
}

// documents are what people read beside code: pages, contracts, what deploys.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "deploy/*/*.md", "deploy/*/*/*.md", "deploy/*/*.yml", "deploy/*/*.yaml", "deploy/*/*/*.yml", "deploy/*/*.conf", "proto/*/*/*/*.proto"} {
		found, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	return paths
}
