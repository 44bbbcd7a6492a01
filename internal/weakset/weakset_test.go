package weakset_test

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/weakset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type value struct {
	name string
	over bool
}

func TestValuesAreHeldOnceAndNotKeptAlive(t *testing.T) {
	var set weakset.Set[value]
	kept := &value{name: "kept"}
	set.Add(nil)
	for range 3 {
		set.Add(kept)
	}
	if all := set.All(); len(all) != 1 || all[0] != kept {
		t.Errorf("it holds %v, want the one", all)
	}
	for range 10_000 {
		set.Add(&value{name: "used once"})
	}
	for deadline := time.Now().Add(10 * time.Second); len(set.All()) > 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatalf("it holds %d after 10s, want 1", len(set.All()))
		}
	}
	runtime.KeepAlive(kept)
}

func namesOf(set *weakset.Set[value]) (names []string) {
	for _, one := range set.Named() {
		names = append(names, one.Name)
	}
	return names
}

func expectNames(t *testing.T, set *weakset.Set[value], want ...string) {
	t.Helper()
	if names := namesOf(set); !slices.Equal(names, want) {
		t.Errorf("the names are %q, want %q", names, want)
	}
}

func TestEachHasANameOfItsOwnUpToTheCap(t *testing.T) {
	set := weakset.Set[value]{MaxNamed: 3}
	values := make([]*value, 5)
	for i := range values {
		values[i] = &value{name: "a"}
	}
	set.AddNamed(nil, "nobody")
	set.Add(values[0]) // a name can come later
	expectNames(t, &set)
	set.AddNamed(values[0], "a")
	set.AddNamed(values[0], "again")
	set.Add(values[0])
	set.AddNamed(values[1], "a 2")
	for _, v := range values[2:] {
		set.AddNamed(v, "a")
	}
	expectNames(t, &set, "a", "a 2", "a 3")
	if named := set.Named(); named[0].Value != values[0] || named[1].Value != values[1] || named[2].Value != values[2] {
		t.Errorf("the names are those of others: %v", named)
	}
	if all := set.All(); len(all) != len(values) {
		t.Errorf("it holds %d, want those without a name, too: %d", len(all), len(values))
	}
	runtime.KeepAlive(values)
}

func TestWithoutACapNoneHasAName(t *testing.T) {
	var set weakset.Set[value]
	v := &value{}
	set.AddNamed(v, "a")
	expectNames(t, &set)
	if all := set.All(); len(all) != 1 || all[0] != v {
		t.Errorf("it holds %v, want the one", all)
	}
}

// Whose time is over leaves its name to another, and so does who is gone.
func TestNamesBecomeFree(t *testing.T) {
	set := weakset.Set[value]{MaxNamed: 2, Over: func(v *value) bool { return v.over }}
	first, second, third := &value{}, &value{}, &value{}
	for _, v := range []*value{first, second, third} {
		set.AddNamed(v, "a")
	}
	expectNames(t, &set, "a", "a 2")
	first.over = true
	expectNames(t, &set, "a 2")
	if all := set.All(); len(all) != 2 || slices.Contains(all, first) {
		t.Errorf("it holds %v, want those that are not over", all)
	}
	set.AddNamed(third, "a")
	expectNames(t, &set, "a 2", "a")
	runtime.KeepAlive(second)
	for deadline := time.Now().Add(10 * time.Second); len(set.Named()) > 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatalf("the names are %q after 10s, want one", namesOf(&set))
		}
	}
	fourth := &value{}
	set.AddNamed(fourth, "a 2")
	expectNames(t, &set, "a", "a 2")
	runtime.KeepAlive(third)
	runtime.KeepAlive(fourth)
}
