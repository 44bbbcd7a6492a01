package consultest

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Flap puts the checks of an instance into HealthCritical, after every into
// HealthPassing, and so on, until stop is called, which leaves it passing, or
// Close. An instance that does not exist, or no longer, flaps when it is
// registered; an id that was mistyped is not told apart from that. stop may be
// called more than once.
func (s *Server) Flap(serviceID string, every time.Duration) (stop func()) {
	if every <= 0 {
		panic(fmt.Sprintf("consultest: an instance cannot flap every %v: want more than 0", every))
	}
	ticker := time.NewTicker(every)
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ticker.Stop()
		return cancel
	}
	_ = s.setServiceStatus(serviceID, HealthCritical)
	stopped := make(chan struct{})
	s.work.Go(func() {
		defer close(stopped)
		defer ticker.Stop()
		s.flap(ctx, serviceID, ticker.C)
	})
	return sync.OnceFunc(func() {
		cancel()
		<-stopped
		_ = s.SetStatus(serviceID, HealthPassing)
	})
}

func (s *Server) flap(ctx context.Context, serviceID string, tick <-chan time.Time) {
	for next, then := HealthPassing, HealthCritical; ; next, then = then, next {
		select {
		case <-tick:
			_ = s.SetStatus(serviceID, next) // it may not be there just now
		case <-ctx.Done():
			return
		case <-s.ended:
			return
		}
	}
}
