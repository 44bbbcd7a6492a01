package balancer_test

import (
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// P12: a pick, and its Done, wait for no lock: callers at once never meet at one.
//
// Case P12
func TestPicksWaitForNoLock(t *testing.T) {
	before := runtime.SetMutexProfileFraction(1)
	defer runtime.SetMutexProfileFraction(before)
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			c := balancertest.New(t, policy)
			c.Ready("{}", balancertest.Equal(3)...)
			picker := c.Picker()
			calls := func(n int) {
				for range n {
					result, err := picker.Pick(call)
					if err != nil {
						t.Error(err)
						return
					}
					result.Done(success)
				}
			}
			calls(1000) // the first that is measured looks the method up in its contract
			contended := waitsOfPicks(t)
			var callers sync.WaitGroup
			for range 16 {
				callers.Go(func() { calls(20_000) })
			}
			callers.Wait()
			if n := waitsOfPicks(t) - contended; n > 0 {
				t.Errorf("picks have waited for a lock %d times", n)
			}
		})
	}
}

// waitsOfPicks is how often a pick or its Done has waited for a lock of ours so far. Those
// of the runtime and of its pools, which the race detector empties, are in the profile, too.
func waitsOfPicks(t *testing.T) (waits int64) {
	t.Helper()
	records := make([]runtime.BlockProfileRecord, 10_000)
	n, ok := runtime.MutexProfile(records)
	if !ok {
		t.Fatalf("there are %d places where something has waited for a lock", n)
	}
	for _, r := range records[:n] {
		stack, ours := "", false
		for frames, more := runtime.CallersFrames(r.Stack()), true; more; {
			var frame runtime.Frame
			frame, more = frames.Next()
			stack += frame.Function + "\n"
			if !ours && !strings.HasPrefix(frame.Function, "sync.(*Mutex)") && !strings.HasPrefix(frame.Function, "sync.(*RWMutex)") {
				if ours = strings.HasPrefix(frame.Function, "github.com/meshlite-go/meshlite/"); !ours {
					break
				}
			}
		}
		if ours && strings.Contains(stack, "TestPicksWaitForNoLock") {
			t.Logf("%d waits until now at\n%s", r.Count, stack)
			waits += r.Count
		}
	}
	return waits
}
