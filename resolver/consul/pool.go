package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// An agent accepts 200 connections from one address, which all processes of a machine
// share, and each blocking query holds one. By HTTP/2 it holds a stream of a connection.
// https://developer.hashicorp.com/consul/docs/agent/config/config-files#http_max_conns_per_client
const (
	maxConnections = 62   // and a few that are being closed
	maxBlocking    = 60   // the others are for requests that do not block
	maxStreams     = 1000 // on four connections of 250, as many as Go's servers take
	readSeats      = 3    // for queries that are answered at once, while others wait
	turn           = time.Second
)

// errTakeTurns ends a blocking query early because the watches have to take turns from now on,
// or chains to share queries.
var errTakeTurns = errors.New("more watches than connections")

// watchPool shares the connections of one agent among its watches. While there is one for each
// watch, it holds it and blocks as long as it likes. Otherwise the watches of chains share a few
// queries ([entryChanges]), and if there are still too many, the others take turns of a second,
// so each is back after a second for each 52 watches. No change is lost between two turns: a watch
// keeps its index.
type watchPool struct {
	seats *seats

	mu      sync.Mutex
	limit   int // of queries in the air
	watches int // of all kinds
	chains  int // of these
	steady  phase
	single  phase // each chain has a query of its own
	shared  phase // they share some
}

func newWatchPool() *watchPool {
	p := &watchPool{seats: &seats{free: maxBlocking}, limit: maxBlocking}
	p.update()
	return p
}

// phase is a time for which something holds. Its context ends with it.
type phase struct {
	context.Context
	end context.CancelFunc
}

func (p *phase) set(holds bool) {
	if p.Context == nil || holds && p.Err() != nil {
		p.Context, p.end = context.WithCancel(context.Background())
	}
	if !holds {
		p.end()
	}
}

// add adds watches, of which some are of chains, or removes them. It reports whether none is left.
func (p *watchPool) add(watches, chains int) (empty bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watches += watches
	p.chains += chains
	p.update()
	return p.watches == 0
}

// multiplex sets whether the agent speaks HTTP/2.
func (p *watchPool) multiplex(streams bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.limit
	p.limit = maxBlocking
	if streams {
		p.limit = maxStreams
	}
	p.seats.add(p.limit - before)
	p.update()
}

// update begins and ends phases. The caller holds p.mu.
func (p *watchPool) update() {
	needed := p.watches
	single := needed <= maxBlocking || p.chains <= sharedSeats // each write of an entry wakes all of them, in Consul
	if !single {
		needed += sharedSeats - p.chains
	}
	p.steady.set(needed <= p.limit)
	p.single.set(single)
	p.shared.set(!single)
	if single && needed <= p.limit {
		p.seats.keep(0)
	} else {
		p.seats.keep(readSeats)
	}
}

// phases returns the contexts of the phases as they are now.
func (p *watchPool) phases() (steady, single, shared context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.steady.Context, p.single.Context, p.shared.Context
}

func (p *watchPool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watches
}

// slot is what a query may take of the pool.
type slot struct {
	context.Context               // of the query; it ends by errTakeTurns if others need the connection
	wait            time.Duration // for which it may block; 0: it must not
	release         func()        // to call when the query has ended
}

// acquire waits for a connection: ahead of others for a first query, which is answered at once. A
// query may block for wait, or for a turn while the watches take turns.
func (p *watchPool) acquire(ctx context.Context, wait time.Duration, first bool) (slot, error) {
	if err := p.seats.acquire(ctx, first); err != nil {
		return slot{}, err
	}
	s := slot{ctx, wait, p.seats.release}
	steady, _, _ := p.phases()
	if steady.Err() != nil {
		s.wait = min(wait, turn)
		return s, nil
	}
	return s.within(steady), nil
}

// within returns a slot that ends soon after a phase has ended.
func (s slot) within(phase context.Context) slot {
	ctx, cancel := context.WithCancelCause(s.Context)
	stop := context.AfterFunc(phase, func() {
		pause(ctx, rand.N(turn)) // a query that ends early loses its connection: not all at once
		cancel(errTakeTurns)
	})
	return slot{ctx, s.wait, func() { stop(); cancel(nil); s.release() }}
}

// hold waits for a connection that a query may have for wait, whatever others need.
func (p *watchPool) hold(ctx context.Context, wait time.Duration) (slot, error) {
	return slot{ctx, wait, p.seats.release}, p.seats.acquire(ctx, true)
}

// seats is a semaphore with two queues, each first come, first served.
type seats struct {
	mu     sync.Mutex
	free   int // below 0: as many more are taken than there are now
	kept   int // of these, only for those who go ahead
	ahead  queue
	others queue
}

type queue []chan struct{}

// acquire waits for a seat; ahead is before all who are not.
func (s *seats) acquire(ctx context.Context, ahead bool) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	queue := &s.others
	if ahead {
		queue = &s.ahead
	}
	given := make(chan struct{})
	s.mu.Lock()
	*queue = append(*queue, given)
	s.give()
	s.mu.Unlock()
	select {
	case <-given:
		return nil
	case <-ctx.Done():
		s.leave(queue, given)
		return ctx.Err()
	}
}

// leave gives back what was given meanwhile.
func (s *seats) leave(queue *queue, given chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(*queue)
	*queue = slices.DeleteFunc(*queue, func(other chan struct{}) bool { return other == given })
	if len(*queue) == before {
		s.free++
		s.give()
	}
}

func (s *seats) release() { s.add(1) }

// add adds n seats; fewer than 0 removes some, as soon as they are free.
func (s *seats) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	s.give()
}

// keep has n seats for those alone who go ahead.
func (s *seats) keep(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = n
	s.give()
}

// give serves those who wait. The caller holds s.mu.
func (s *seats) give() {
	for s.free > 0 && s.ahead.serve() || s.free > s.kept && s.others.serve() {
		s.free--
	}
}

// serve serves the first, if there is one.
func (q *queue) serve() bool {
	if len(*q) == 0 {
		return false
	}
	close((*q)[0])
	*q = (*q)[1:]
	return true
}
