package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

const (
	sampleEvery = 250 * time.Millisecond // how often instances' metrics are read
	// maxSkew is how far apart answers may be that are compared with each other.
	maxSkew = 100 * time.Millisecond
	// maxSamples is enough for the samples of ten instances in ten minutes.
	maxSamples = 10 * 10 * 60 * 4
)

// member is an instance and its figures.
type member struct {
	*shop.Instance
	name string // "catalog-1", for people

	fate string  // "" while it lives, then what became of it
	gone bool    // whether it no longer answers
	base figures // before the load
	last figures // when last asked
}

func (m *member) calls() uint64 { return m.last.calls - m.base.calls }

// sample is how many calls an instance had handled since the load began.
type sample struct {
	at          time.Time
	service, id string
	calls       uint64
}

// fleet holds all instances of the story. It is safe for concurrent use.
type fleet struct {
	scraper *scraper
	asking  sync.Mutex // one round of questions at a time

	mu      sync.Mutex
	members []*member // in the order in which they came
	shares  map[string]*shares
	changes int      // of who lives
	traffic []sample // in the order in which members have answered
}

func newFleet() *fleet {
	return &fleet{scraper: newScraper(), shares: map[string]*shares{}}
}

// join adds an instance that lives from now on.
func (f *fleet) join(i *shop.Instance) *member {
	f.mu.Lock()
	defer f.mu.Unlock()
	number := 1
	for _, m := range f.members {
		if m.Service == i.Service {
			number++
		}
	}
	m := &member{Instance: i, name: fmt.Sprintf("%s-%d", i.Service, number)}
	f.members = append(f.members, m)
	f.changes++
	return m
}

// leave says what is about to happen to a member, after one last look at it.
func (f *fleet) leave(ctx context.Context, m *member, fate string) {
	f.sample(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	m.fate = fate
	f.changes++
}

// buried marks a member that is no longer sampled.
func (f *fleet) buried(m *member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.gone = true
}

// living are the members of a service that nothing has happened to.
func (f *fleet) living(service string) []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	var living []*member
	for _, m := range f.members {
		if m.Service == service && m.fate == "" {
			living = append(living, m)
		}
	}
	return living
}

// begin sets the figures so far as the base that is subtracted.
func (f *fleet) begin(ctx context.Context) {
	f.sample(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		m.base = m.last
	}
	f.shares, f.traffic = map[string]*shares{}, nil
}

// watch samples until ctx ends.
func (f *fleet) watch(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.sample(ctx)
		}
	}
}

// sample asks every member once, all at the same time.
func (f *fleet) sample(ctx context.Context) {
	f.asking.Lock()
	defer f.asking.Unlock()
	asked, changes := f.present()
	now := time.Now()
	silent := map[string]bool{} // services of which a member did not answer
	var all sync.WaitGroup
	for _, m := range asked {
		all.Go(func() {
			answer, err := f.scraper.scrape(ctx, m.Service, m.Metrics)
			f.mu.Lock()
			defer f.mu.Unlock()
			if err != nil {
				silent[m.Service] = true
				return
			}
			m.last = answer
			if len(f.traffic) < maxSamples {
				f.traffic = append(f.traffic, sample{time.Now(), m.Service, m.ID, m.calls()})
			}
		})
	}
	all.Wait()
	took := time.Since(now)
	f.mu.Lock()
	defer f.mu.Unlock()
	// Otherwise the figures are of different moments, or of different sets of instances.
	if took <= maxSkew && f.changes == changes {
		f.observe(now, silent)
	}
}

// present are the members that still answer. Who lives has changed since when the
// number is another.
func (f *fleet) present() (present []*member, changes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if !m.gone {
			present = append(present, m)
		}
	}
	return present, f.changes
}

// observe hands the calls of the living to the shares. The caller holds f.mu.
func (f *fleet) observe(now time.Time, silent map[string]bool) {
	calls := map[string]map[string]uint64{}
	for _, m := range f.members {
		if m.fate != "" || silent[m.Service] {
			continue
		}
		if calls[m.Service] == nil {
			calls[m.Service] = map[string]uint64{}
		}
		calls[m.Service][m.ID] = m.last.calls
	}
	for service, living := range calls {
		if f.shares[service] == nil {
			f.shares[service] = &shares{}
		}
		f.shares[service].observe(now, living)
	}
}

func (f *fleet) samples() []sample {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.traffic
}

// caches adds up what the caches of all members did.
func (f *fleet) caches() Cache {
	f.mu.Lock()
	defer f.mu.Unlock()
	var c Cache
	for _, m := range f.members {
		c.Hits += m.last.hits - m.base.hits
		c.Misses += m.last.misses - m.base.misses
	}
	return c
}

// card is a member as it is shown.
type card struct {
	name, service, id, address, fate string
	calls                            uint64
	share                            share
}

// cards are all members, service by service in the order in which they came.
func (f *fleet) cards() []card {
	f.mu.Lock()
	defer f.mu.Unlock()
	var cards []card
	for _, service := range []string{"catalog", "inventory", "storefront"} {
		for _, m := range f.members {
			if m.Service != service {
				continue
			}
			c := card{name: m.name, service: service, id: m.ID, address: m.Address, fate: m.fate, calls: m.calls()}
			if s := f.shares[service]; s != nil {
				c.share = s.sum[m.ID]
			}
			cards = append(cards, c)
		}
	}
	return cards
}

// end takes the last look.
func (f *fleet) end(ctx context.Context) {
	f.sample(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.shares {
		s.close()
	}
	f.scraper.close()
}
