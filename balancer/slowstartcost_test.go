package balancer_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// A deploy starts an endpoint slowly in every channel to a service, and each step of that takes
// a new picker: its size follows the number of endpoints, not the precision of weights.
//
// Case scale
func TestASlowStartAllocatesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, roundrobin.Name)
		c.Ready("{}", balancertest.Equal(10)...)
		time.Sleep(time.Minute)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c.Ready("{}", balancertest.Equal(11)...)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 2<<20 {
			t.Errorf("the slow start of one of 11 endpoints allocates %d KB, want 2 MB at most", got>>10)
		}
	})
}
