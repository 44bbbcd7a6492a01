package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

const (
	// maxAtOnce is how many subjects are told one by one; more are told as everything.
	maxAtOnce = 1024
	// maxPending is how many bytes of subjects are remembered, about.
	maxPending = 256 << 10
)

// Invalidate makes the values of subjects unreachable: for everybody when it returns
// nil. On an error they are remembered and told as soon as Redis is well again, before
// anything is loaded through r; other processes may find them until then.
func (r *Redis) Invalidate(ctx context.Context, subjects []string) error {
	if len(subjects) == 0 {
		return nil
	}
	if err := r.deferred(subjects); err != nil {
		return err
	}
	_, err := redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (struct{}, error) {
		return struct{}{}, r.tell(ctx, client, subjects)
	})
	if err != nil {
		r.mu.Lock()
		r.pending.remember(subjects)
		r.conn.Trip(err)
		r.mu.Unlock()
		return later(err)
	}
	r.counters.invalidations.Add(1)
	return nil
}

// deferred remembers subjects while Redis is away.
func (r *Redis) deferred(subjects []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.conn.TurnedAway()
	if err == nil {
		return nil
	}
	r.pending.remember(subjects)
	return later(err)
}

func later(err error) error {
	return fmt.Errorf("the invalidation is told to others as soon as redis is well: %w", err)
}

// tell gives subjects new generations, and then says so: whoever hears of it and loads
// must not find the old ones. Nil is everything.
func (r *Redis) tell(ctx context.Context, client rueidis.Client, subjects []string) error {
	if len(subjects) > maxAtOnce {
		subjects = nil
	}
	slots := slotsOf(subjects)
	if len(subjects) == 0 {
		slots = []uint32{everything}
	}
	commands := make([]rueidis.Completed, len(slots))
	for i, slot := range slots {
		commands[i] = client.B().Set().Key(r.generation(slot)).Value(rand.Text()).Ex(generationTTL).Build()
	}
	if err := firstError(client.DoMulti(ctx, commands...)); err != nil {
		return err
	}
	return client.Do(ctx, client.B().Publish().Channel(r.channel()).Message(encode(subjects)).Build()).Error()
}

// pending are subjects that are to be told. Beyond a bound they are everything.
type pending struct {
	subjects map[string]bool
	bytes    int
	all      bool
	changes  int
}

func (p *pending) some() bool { return p.all || len(p.subjects) > 0 }

func (p *pending) remember(subjects []string) {
	p.changes++
	for _, s := range subjects {
		if p.all || p.subjects[s] {
			continue
		}
		if p.bytes += len(s) + 64; p.bytes > maxPending {
			*p = pending{all: true, changes: p.changes}
			return
		}
		if p.subjects == nil {
			p.subjects = map[string]bool{}
		}
		p.subjects[s] = true
	}
}

// list are the subjects; none is everything, if there are some.
func (p *pending) list() []string { return slices.Collect(maps.Keys(p.subjects)) }
