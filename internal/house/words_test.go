package house

import (
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// banned are words that a reader of gRPC, RFC 9111 and the SRE books stumbles over, and what
// to write instead. They are looked for in comments, those of tests included.
var banned = map[string]string{
	"tell|tells|told|telling":     "returns, reports, publishes, records, is notified",
	"petiole":                     "endpoint balancer",
	"signpost":                    "vary marker",
	"stand-in answer":             "stale answer",
	"lain|heeds|learns|mends?":    "stored, obeys, receives, fixes",
	"of no matter|nobody waiting": "ignored, in the background",
	"hangs the":                   "attaches the",
	"by and by":                   "gradually",
}

// mostBanned is how often they may stand all the same, where people are meant.
const mostBanned = 20

// Words that the field has another word for do not come back.
func TestWordsAreThoseOfTheField(t *testing.T) {
	patterns := map[*regexp.Regexp]string{}
	for words, instead := range banned {
		patterns[regexp.MustCompile(`(?i)\b(`+words+`)\b`)] = instead
	}
	var found []string
	look := func(where, text string) {
		for pattern, instead := range patterns {
			for _, word := range pattern.FindAllString(text, -1) {
				found = append(found, fmt.Sprintf("%s: %q: write %s", where, word, instead))
			}
		}
	}
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			if strings.HasSuffix(name, ".pb.go") {
				continue
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range file.Comments {
				look(fmt.Sprintf("%s/%s:%d", p.room(), name, set.Position(group.Pos()).Line), group.Text())
			}
		}
	}
	if len(found) > mostBanned {
		t.Errorf("%d banned words, want at most %d:\n%s", len(found), mostBanned, strings.Join(found, "\n"))
	}
}
