package reflectcall

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	maxOffered = 8    // names in a message
	maxNames   = 1000 // that are compared: the server writes them
	maxName    = 200  // bytes of one
)

// offer lists names for a message, those most like wanted first.
func offer(wanted string, names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	total := len(names)
	names = slices.Clone(names[:min(total, maxNames)])
	distances := make(map[string]int, len(names))
	for i, name := range names {
		names[i] = name[:min(len(name), maxName)]
		distances[names[i]] = distance(strings.ToLower(wanted), strings.ToLower(names[i]))
	}
	if wanted != "" {
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(distances[a], distances[b]) })
	}
	shown := names[:min(len(names), maxOffered)]
	text := strings.Join(shown, ", ")
	if more := total - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// distance counts the letters to insert, delete or replace between a and b
// (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
