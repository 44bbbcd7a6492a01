package openloop_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/openloop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// While all places are taken calls wait; they are sent late and none is left out.
func TestLateCallsAreSentAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent, late atomic.Int64
		loop := openloop.New(10)
		loop.Go(t.Context(), time.Now(), openloop.Rate(100), func(n int, due time.Time) func() {
			return func() {
				sent.Add(1)
				if time.Since(due) > time.Second {
					late.Add(1)
				}
				if n < 10 {
					time.Sleep(2 * time.Second)
				}
			}
		})
		time.Sleep(5*time.Second - time.Millisecond)
		loop.Finish()
		if sent.Load() != 500 || late.Load() == 0 {
			t.Errorf("%d calls were sent, %d of them late, want 500 and some", sent.Load(), late.Load())
		}
	})
}

func ExampleLoop() {
	sent := make(chan int)
	loop := openloop.New(1)
	loop.Go(context.Background(), time.Now(), openloop.Rate(1000), func(n int, _ time.Time) func() {
		return func() {
			if n < 3 {
				sent <- n
			}
		}
	})
	fmt.Println(<-sent, <-sent, <-sent)
	loop.Finish()
	// Output: 0 1 2
}
