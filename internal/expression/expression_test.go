package expression_test

import (
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/expression"
)

// Case T12: Regular expressions from a chain are bounded in length and time.
func TestExpressionsAreBounded(t *testing.T) {
	for name, test := range map[string]struct{ expression, want string }{
		"as long as may be":        {strings.Repeat("a", 1024), ""},
		"longer":                   {strings.Repeat("a", 1025), "an expression of 1025 bytes: write 1024 at most"},
		"a hostname":               {`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*`, ""},
		"a UUID":                   {`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, ""},
		"nested repetitions":       {`((a{5}){5}){5}`, ""},
		"too many repetitions":     {`(?:abcdefgh){1000}`, "with its repetitions: write 2048 at most"},
		"at least many":            {`(?:abcdefgh){1000,}`, "with its repetitions: write 2048 at most"},
		"repetitions side by side": {strings.Repeat("a{1000}", 3), "with its repetitions: write 2048 at most"},
		"beyond RE2's":             {`a{1001}`, "no expression of RE2: invalid repeat count"},
		"nested beyond RE2's":      {`((a{100}){100}){100}`, "no expression of RE2: invalid repeat count"},
		"backreference":            {`(a)\1`, "no expression of RE2: invalid escape sequence"},
		"lookahead":                {`a(?=b)`, "no expression of RE2"},
		"out of its group":         {`a)(b`, "no expression of RE2: unexpected )"},
		"deep":                     {strings.Repeat("(", 512) + strings.Repeat(")", 512), ""},
	} {
		re, steps, err := expression.Whole(test.expression)
		switch {
		case test.want == "":
			if err != nil || re == nil || steps < 1 || steps > 2048 {
				t.Errorf("%s: %v, %d steps", name, err, steps)
			}
		case err == nil || re != nil || !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestWholeTextsMatch(t *testing.T) {
	for text, want := range map[string]bool{"a": true, "bc": true, "ab": false, "bcd": false, "": false, "a\n": false} {
		re, _, err := expression.Whole("a|bc")
		if err != nil || re.MatchString(text) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}
