// Package expression compiles the regular expressions that operators write into Consul's
// config entries, with bounds on what matching them costs.
package expression

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
)

// Bounds of one expression.
const (
	maxBytes = 1 << 10
	maxSteps = 2 << 10 // with its repetitions
)

// Whole compiles an expression that matches whole texts, as RE2's FullMatch does. Matching
// takes time that is linear in the text and in the steps of the expression.
func Whole(expression string) (_ *regexp.Regexp, steps int, _ error) {
	if len(expression) > maxBytes {
		return nil, 0, fmt.Errorf("an expression of %d bytes: write %d at most", len(expression), maxBytes)
	}
	// Before it is wrapped: ")(" would be valid within.
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, 0, fmt.Errorf("%q, which is no expression of RE2: %w", expression, reason(err))
	}
	if steps = stepsOf(parsed); steps > maxSteps {
		return nil, 0, fmt.Errorf("%q, which is an expression of %d steps with its repetitions: write %d at most", expression, steps, maxSteps)
	}
	re, err := regexp.Compile(`^(?s:` + expression + `)$`)
	return re, steps, err
}

// reason is err without the expression, which is quoted beside it.
func reason(err error) error {
	var bad *syntax.Error
	if errors.As(err, &bad) {
		return errors.New(bad.Code.String())
	}
	return err
}

// stepsOf is about the number of instructions of an expression. The parser bounds nested
// repetitions by 1,000, so it does not overflow.
func stepsOf(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	if re.Op == syntax.OpCharClass {
		n = 1
	}
	for _, sub := range re.Sub {
		n += stepsOf(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Max, re.Min+1)
	}
	return n
}
