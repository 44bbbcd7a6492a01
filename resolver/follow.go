package resolver

import (
	"context"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Follow tells changed which instances answer q, and again whenever that may have
// changed, one call at a time. It believes the directory as channels do, with which it
// shares its watch: of instances that vanish many at once some stay for the grace time,
// and what is known stays while the directory is away. What is known from before serves
// until the first answer; without it nothing is reported before. The list must not be changed. stop ends it and waits; it must not be called
// by changed.
func (b *Builder) Follow(q catalog.Query, changed func([]catalog.Instance)) (stop func()) {
	wake, done := make(chan struct{}, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	s := b.watches.subscribe(b.directory, q, b.settings, wake)
	go func() {
		defer close(done)
		for {
			again := s.tell(changed)
			timer := time.NewTimer(again)
			if again == 0 {
				timer.Stop()
			}
			select {
			case <-ctx.Done():
			case <-wake:
			case <-timer.C:
			}
			timer.Stop()
			if ctx.Err() != nil {
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		s.close()
	})
}

// tell answers when to look again without being woken; 0 is never.
func (s *subscription) tell(changed func([]catalog.Instance)) (again time.Duration) {
	now := s.look()
	switch {
	case now.known:
		changed(now.callable())
	case len(now.before) > 0:
		changed(now.before)
	}
	return now.again
}
