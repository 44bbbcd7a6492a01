package reflectcall

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/nearest"
)

const (
	maxOffered = 8    // names in a message
	maxNames   = 1000 // that are looked at: the server writes them
	maxName    = 200  // bytes of one
)

// offer lists names for a message, those most like wanted first.
func offer(wanted string, names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	total := len(names)
	names = slices.Clone(names[:min(total, maxNames)])
	for i, name := range names {
		names[i] = name[:min(len(name), maxName)]
	}
	if wanted != "" {
		names = sorted(wanted, names)
	}
	shown := names[:min(len(names), maxOffered)]
	text := strings.Join(shown, ", ")
	if more := total - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// sorted puts the names first that are most like wanted, which may lack the package.
func sorted(wanted string, names []string) []string {
	if strings.Contains(wanted, ".") {
		return nearest.Sorted(wanted, names)
	}
	whole := map[string][]string{} // by what stands behind the package
	var short []string
	for _, name := range names {
		last := name[strings.LastIndexByte(name, '.')+1:]
		if whole[last] == nil {
			short = append(short, last)
		}
		whole[last] = append(whole[last], name)
	}
	var all []string
	for _, last := range nearest.Sorted(wanted, short) {
		all = append(all, whole[last]...)
	}
	return all
}
