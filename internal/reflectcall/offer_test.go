package reflectcall

import (
	"fmt"
	"strings"
	"testing"
)

func TestOffer(t *testing.T) {
	var many []string
	for i := range 5000 {
		many = append(many, fmt.Sprintf("Method%d", i))
	}
	for want, got := range map[string]string{
		"nothing":            offer("a", nil),
		"GetSweet, ListAll":  offer("getsweets", []string{"ListAll", "GetSweet"}),
		"B, A":               offer("", []string{"B", "A"}), // as the contract has them
		"and 4992 more":      offer("Method7", many),
		"Method7, Method0, ": offer("Method7", many),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	if long := offer("x", []string{strings.Repeat("y", 1<<20)}); len(long) > maxName {
		t.Errorf("a name of a megabyte is shown with %d bytes", len(long))
	}
}
