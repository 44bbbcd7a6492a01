package heapfloor

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

// keepsGOGC is the argument that makes this a program whose GOGC its user has set.
const keepsGOGC = "keeps-gogc"

// TestMain is also that program, which fails if 70 does not stay.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == keepsGOGC {
		Set()
		runtime.GC()
		if current() != 70 {
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func TestTheHeapGrowsToTheFloorOrToTwiceItsSize(t *testing.T) {
	for live, want := range map[uint64]int{0: 1500, 4 << 20: 1500, 16 << 20: 300, 32 << 20: 100, 1 << 30: 100} {
		if got := percent(live); got != want {
			t.Errorf("%d bytes alive: GOGC is %d, want %d", live, got, want)
		}
	}
}

func TestAGOGCOfTheUserStays(t *testing.T) {
	itself := exec.Command(os.Args[0], keepsGOGC)
	itself.Env = append(os.Environ(), "GOGC=70")
	if out, err := itself.CombinedOutput(); err != nil {
		t.Errorf("GOGC=70 does not stay: %v %s", err, out)
	}
}

// A heap that has grown beyond the floor is collected as ever, and one that has shrunk again
// has the floor again.
func TestTheFloorFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	Set()
	large := make([]byte, floor)
	collectUntil(func() bool { return current() == usual })
	runtime.KeepAlive(large)
	large = nil
	collectUntil(func() bool { return current() > usual })
}

// collectUntil waits for the finalizer, which the runtime runs when it likes. A floor that
// does not follow ends at the timeout of the tests.
func collectUntil(done func() bool) {
	for !done() {
		runtime.GC()
	}
}
