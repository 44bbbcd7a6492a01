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
	likely := Sorted(wanted, slices.DeleteFunc(seen(names), func(name string) bool { return !alike(fold(wanted), fold(name)) }))
	return likely[:min(len(likely), most)]
}

// Sorted are the first thousand names, the most like wanted first.
func Sorted(wanted string, names []string) []string {
	names = seen(names)
	distances := make(map[string]int, len(names))
	for _, name := range names {
		distances[name] = distance(fold(wanted), fold(name))
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(distances[a], distances[b]) })
	return names
}

// seen are the names that are compared.
func seen(names []string) []string { return slices.Clone(names[:min(len(names), maxSeen)]) }

func alike(wanted, name string) bool {
	return 3*distance(wanted, name) <= max(len(wanted), len(name)) || wanted != "" && strings.Contains(name, wanted)
}

// fold makes names comparable, and short enough to be compared.
func fold(name string) string { return strings.ToLower(name[:min(len(name), maxName)]) }

// distance counts the letters to insert, delete or replace between a and b, and the
// neighbours to swap (Levenshtein's, with Damerau's transpositions).
func distance(a, b string) int {
	last, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			replaced := row[j]
			if a[i] != b[j] {
				replaced++
			}
			next[j+1] = min(replaced, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], last[j-1]+1)
			}
		}
		last, row, next = row, next, last
	}
	return row[len(b)]
}
