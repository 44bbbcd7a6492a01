package balancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// P4: a new or returning endpoint gets a call. On a quiet channel, where its share in
// slow start would be none, that is the next one, and only that.
//
// Case P4
func TestTheNextCallGoesToANewEndpoint(t *testing.T) {
	for name, come := range map[string]func(c *balancertest.Channel){
		"new": func(c *balancertest.Channel) { c.Ready("{}", balancertest.Equal(4)...) },
		"back after it was gone": func(c *balancertest.Channel) {
			c.Ready("{}", balancertest.Equal(4)...)
			pick(t, c).Done(success)
			c.Ready("{}", balancertest.Equal(3)...)
			time.Sleep(time.Minute)
			c.Ready("{}", balancertest.Equal(4)...)
		},
		"back after it was away": func(c *balancertest.Channel) {
			c.Ready("{}", balancertest.Equal(4)...)
			pick(t, c).Done(success)
			time.Sleep(time.Minute)
			c.Break(3)
			c.Reconnect(3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
				shares(t, c, 30)
				come(c)
				settle()
				if i := balancertest.IndexOf(pick(t, c)); i != 3 {
					t.Errorf("the next call goes to %d, want the new one", i)
				}
				if counts := shares(t, c, 4); counts[3] > 1 {
					t.Errorf("%d of the 4 calls after it go to the new one, too", counts[3])
				}
			})
		})
	}
}

// A success rate is compared with that of enough calls of the others: that one or two of
// them have succeeded is no measure.
//
// Case P9
func TestFewCallsOfTheOthersEjectNobody(t *testing.T) {
	for others, want := range map[int]balancer.State{1: balancer.InRotation, 2: balancer.InRotation, 19: balancer.InRotation, 20: balancer.Ejected} {
		synctest.Test(t, func(t *testing.T) {
			c := balancertest.New(t, roundrobin.Name)
			c.Ready(`{"ejection": {"consecutiveFailures": 0, "requestVolume": 20}}`, balancertest.Equal(3)...)
			bad, elsewhere := 0, 0
			for range 600 {
				result := pick(t, c)
				time.Sleep(10 * time.Millisecond)
				info := ended(codes.Canceled) // counts for nothing
				if balancertest.IndexOf(result) == 1 {
					if bad++; bad%2 == 0 {
						info = ended(codes.Unavailable)
					} else {
						info = success
					}
				} else if bad >= 2 && elsewhere < others { // counting begins with the first failure
					elsewhere++
					info = success
				}
				result.Done(info)
			}
			if s := stats(t, c, 1); s.State != want || bad < 20 {
				t.Errorf("%s over %d calls of the others, want %s: it had %d calls", s.State, others, want, bad)
			}
			c.Policy.Close()
		})
	}
}
