package weakset_test

import (
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/weakset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type value struct{ name string }

func TestValuesAreHeldOnceAndNotKeptAlive(t *testing.T) {
	var set weakset.Set[value]
	kept := &value{"kept"}
	set.Add(nil)
	for range 3 {
		set.Add(kept)
	}
	if all := set.All(); len(all) != 1 || all[0] != kept {
		t.Errorf("it holds %v, want the one", all)
	}
	for range 10_000 {
		set.Add(&value{"used once"})
	}
	for deadline := time.Now().Add(10 * time.Second); len(set.All()) > 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatalf("it holds %d after 10s, want 1", len(set.All()))
		}
	}
	runtime.KeepAlive(kept)
}
