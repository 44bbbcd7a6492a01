package shop

import (
	"context"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// book holds the registry's view of the shop's services, kept by blocking queries.
type book struct {
	cancel context.CancelFunc
	watch  sync.WaitGroup

	mu      sync.Mutex
	known   map[string]entry // by address
	changed chan struct{}    // closed with the next change
}

// entry is an instance and when the registry first listed it.
type entry struct {
	catalog.Instance
	since time.Time
}

// openBook follows the services until close.
func openBook(directory catalog.Watcher, services []string) *book {
	ctx, cancel := context.WithCancel(context.Background())
	b := &book{cancel: cancel, known: map[string]entry{}, changed: make(chan struct{})}
	for _, service := range services {
		b.watch.Go(func() {
			directory.Watch(ctx, catalog.Query{Service: service}, func(s catalog.Snapshot, err error) {
				if err == nil { // the watch asks again by itself
					b.update(service, s.Instances)
				}
			})
		})
	}
	return b
}

func (b *book) close() {
	b.cancel()
	b.watch.Wait()
}

// update replaces the instances of a service.
func (b *book) update(service string, instances []catalog.Instance) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	before := map[string]entry{}
	for address, e := range b.known {
		if e.Service == service {
			before[address] = e
			delete(b.known, address)
		}
	}
	for _, i := range instances {
		since := now
		if old, known := before[i.Address]; known && old.ID == i.ID {
			since = old.since
		}
		b.known[i.Address] = entry{i, since}
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// await waits until the registry lists address as passing, or until givenUp.
func (b *book) await(ctx context.Context, address string, givenUp <-chan struct{}) (entry, bool) {
	for {
		b.mu.Lock()
		e, known := b.known[address]
		changed := b.changed
		b.mu.Unlock()
		if known {
			return e, true
		}
		select {
		case <-changed:
		case <-givenUp:
			return entry{}, false
		case <-ctx.Done():
			return entry{}, false
		}
	}
}

// awaitGone waits until the registry does not list address.
func (b *book) awaitGone(ctx context.Context, address string) bool {
	for {
		b.mu.Lock()
		_, known := b.known[address]
		changed := b.changed
		b.mu.Unlock()
		if !known {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
