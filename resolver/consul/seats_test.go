package consul

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A seat that is kept is for those who go ahead, and they go before those who came earlier.
func TestSeatsAreKeptForThoseAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &seats{free: 2}
		s.keep(1)
		var mu sync.Mutex
		var order []string
		take := func(name string, ahead bool) {
			go func() {
				if s.acquire(context.Background(), ahead) == nil {
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
				}
			}()
			synctest.Wait()
		}
		take("first", false)
		take("second", false) // waits: the other seat is kept
		take("third", false)
		take("ahead", true)
		take("ahead too", true) // waits: there is none
		for range 4 {
			s.release()
			synctest.Wait()
		}
		mu.Lock()
		defer mu.Unlock()
		want := []string{"first", "ahead", "ahead too", "second", "third"}
		for i := range want {
			if i >= len(order) || order[i] != want[i] {
				t.Fatalf("seats are taken by %q, want %q", order, want)
			}
		}
	})
}

// However many give up while they wait, and however the number of seats changes, no more are
// taken than there are, and all are free in the end.
func TestSeatsAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &seats{free: 10}
		var mu sync.Mutex
		taken, most := 0, 0
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			taken += n
			most = max(most, taken)
		}
		var all sync.WaitGroup
		for n := range 500 {
			all.Go(func() {
				time.Sleep(rand.N(time.Second))
				ctx, cancel := context.WithTimeout(context.Background(), rand.N(300*time.Millisecond))
				defer cancel()
				if s.acquire(ctx, n%3 == 0) != nil {
					return
				}
				count(1)
				time.Sleep(rand.N(100 * time.Millisecond))
				count(-1)
				s.release()
			})
		}
		for n := range 20 {
			time.Sleep(50 * time.Millisecond)
			s.add(5 * (1 - n%2*2)) // 15 seats and 10, in turn
			s.keep(n % 4)
		}
		all.Wait()
		if s.free != 10 || len(s.ahead) > 0 || len(s.others) > 0 {
			t.Errorf("%d seats are free, %d and %d wait, want 10, 0 and 0", s.free, len(s.ahead), len(s.others))
		}
		if most > 15 || most < 10 {
			t.Errorf("%d seats were taken at one time, want 10 to 15", most)
		}
	})
}
