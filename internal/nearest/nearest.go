// Package nearest finds the names that were probably meant: those that differ from
// what was written by a few letters. Messages about unknown names offer them.
//
//	fmt.Println(nearest.Names("catalogue", []string{"catalog", "inventory"})) // [catalog]
package nearest

import (
	"cmp"
	"slices"
	"strings"
)

const (
	most    = 3    // names that are offered
	maxSeen = 1000 // that are compared
	maxName = 200  // bytes of one
)

// Names are up to three of names that are like wanted, the most alike first: no more
// than a third of the letters differ, or wanted is a part of it.
func Names(wanted string, names []string) []string {
	wanted = fold(wanted)
	distances := map[string]int{}
	var likely []string
	for _, name := range names[:min(len(names), maxSeen)] {
		folded := fold(name)
		d := distance(wanted, folded)
		if 3*d <= max(len(wanted), len(folded)) || wanted != "" && strings.Contains(folded, wanted) {
			distances[name] = d
			likely = append(likely, name)
		}
	}
	slices.SortStableFunc(likely, func(a, b string) int { return cmp.Compare(distances[a], distances[b]) })
	return likely[:min(len(likely), most)]
}

// fold makes names comparable, and short enough to be compared.
func fold(name string) string { return strings.ToLower(name[:min(len(name), maxName)]) }

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
