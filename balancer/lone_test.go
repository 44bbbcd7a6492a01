package balancer_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// A lone refusal is compared with the other answers for a time. Then a channel without
// calls makes no more pickers.
func TestComparingEndsOnAQuietChannel(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		shares(t, c, 30)
		time.Sleep(time.Minute) // after the slow start
		before := c.Picker()
		pick(t, c).Done(ended(codes.NotFound))
		time.Sleep(2 * time.Second)
		settle()
		if c.Picker() == before {
			t.Error("no picker was made after the refusal: nobody looks when comparing ends")
		}
		time.Sleep(2 * time.Minute)
		settle()
		last := c.Picker()
		time.Sleep(2 * time.Minute)
		settle()
		if c.Picker() != last {
			t.Error("pickers are made minutes after the last call")
		}
	})
}
