package nearest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/nearest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNames(t *testing.T) {
	names := []string{"catalog", "catalog-admin", "inventory", "storefront", strings.Repeat("x", 1<<20)}
	for wanted, want := range map[string][]string{
		"catalogue": {"catalog", "catalog-admin"},
		"CATALOG":   {"catalog", "catalog-admin"},
		"invntory":  {"inventory"},
		"ivnentory": {"inventory"},
		"front":     {"storefront"},
		"payments":  nil,
		"":          nil,
	} {
		got := nearest.Names(wanted, names)
		if wanted == "catalogue" {
			got, want = got[:1], want[:1] // whether the admin is like it is a matter of taste
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q is like %q, want %q", wanted, got, want)
		}
	}
}

func TestNamesAreSortedByTheLettersThatDiffer(t *testing.T) {
	names := []string{"xyz", "abcd", "abc", "ABD", "", strings.Repeat("x", 1<<20)}
	if got := nearest.Sorted("abc", names); !slices.Equal(got[:5], []string{"abc", "abcd", "ABD", "xyz", ""}) {
		t.Errorf("the names are sorted %q", got[:5])
	}
	if names[0] != "xyz" {
		t.Error("the caller's names are sorted")
	}
	if got := nearest.Sorted("kitten", []string{"mutton!!", "sitting"}); got[0] != "sitting" {
		t.Errorf("the names are sorted %q", got)
	}
	if got := nearest.Sorted("tpo", []string{"tap", "top"}); got[0] != "top" { // neighbours that are swapped are one slip
		t.Errorf("the names are sorted %q", got)
	}
	if got := len(nearest.Sorted("a", make([]string, 5000))); got != 1000 {
		t.Errorf("%d names are compared, want 1000", got)
	}
}

func ExampleNames() {
	fmt.Println(nearest.Names("catalogue", []string{"inventory", "catalog"}))
	// Output: [catalog]
}
