package benchkit

import (
	"fmt"
	"strings"
)

// Replace returns page with text between the line "<!-- command -->" and the next line
// "<!-- end -->", in place of what was there.
func Replace(page, command, text string) (string, error) {
	begin, end := "<!-- "+command+" -->\n", "<!-- end -->\n"
	before, rest, found := strings.Cut(page, begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return "", fmt.Errorf("the page lacks the lines %q and %q, between which the table stands", begin, end)
	}
	return before + begin + "\n" + text + "\n" + end + after, nil
}
