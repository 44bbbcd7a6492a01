package redis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

const (
	// maxAtOnce caps the subjects of one message; more are published as everything.
	maxAtOnce = 1024
	// maxPending bounds the pending subjects, in bytes, about.
	maxPending = 256 << 10
)

// Invalidate makes the values of subjects unreachable: for everybody when it returns
// nil. After an error they are pending, and published as soon as Redis is back, before
// anything is loaded through r; other processes may find them until then.
func (r *Redis) Invalidate(ctx context.Context, subjects []string) error {
	if len(subjects) == 0 {
		return nil
	}
	if err := r.deferred(subjects); err != nil {
		return err
	}
	_, err := redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (struct{}, error) {
		return struct{}{}, r.publish(ctx, client, subjects)
	})
	if err != nil {
		r.mu.Lock()
		r.pending.add(subjects)
		r.conn.Trip(err)
		r.mu.Unlock()
		return later(err)
	}
	r.counters.invalidations.Add(1)
	return nil
}

// deferred adds subjects to those pending while Redis is away.
func (r *Redis) deferred(subjects []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.conn.TurnedAway()
	if err == nil {
		return nil
	}
	r.pending.add(subjects)
	return later(err)
}

func later(err error) error {
	return fmt.Errorf("the invalidation is published to other processes once redis is back: %w", err)
}

// publish gives subjects new generations first, and then notifies: who is notified and
// loads must not find the old ones. nil is everything.
func (r *Redis) publish(ctx context.Context, client rueidis.Client, subjects []string) error {
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

// pending are subjects that are still to be published. Beyond a bound they are everything.
type pending struct {
	subjects map[string]bool
	bytes    int
	all      bool
	changes  int
}

func (p *pending) some() bool { return p.all || len(p.subjects) > 0 }

func (p *pending) add(subjects []string) {
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

// maxMessage is the longest message, in bytes. A longer one is sent and read as everything.
const maxMessage = 64 << 10

// Subscribe calls invalidated with the subjects that any process invalidates, this one
// too, one call at a time. It is called with nil, for everything, when some may have been
// missed: when the subscription is lost, and whenever it is established. In between, and
// while Redis is away, nothing arrives, and a copy lives until its ttl ends. All
// subscribers share one connection, and wait for each other. Neither cancel nor Close may
// be called by invalidated.
func (r *Redis) Subscribe(invalidated func(subjects []string)) (cancel func()) {
	l := &listener{invalidated}
	r.listeners.add(l, r.counters.subscribed.Load, func() { r.conn.Go(r.listen) })
	return sync.OnceFunc(func() { r.listeners.remove(l) })
}

func (r *Redis) channel() string { return r.conn.Prefix + "invalidated" }

// listen keeps the subscription while Redis is reachable.
func (r *Redis) listen() {
	for backoff, warned := r.conn.Backoff, false; ; backoff = r.conn.Pause(backoff) {
		for !r.conn.Connected() {
			select {
			case <-r.conn.Back():
			case <-r.conn.Context().Done():
				return
			}
		}
		subscribed, err := r.receive(r.conn.Client())
		switch {
		case r.conn.Context().Err() != nil:
			return
		case subscribed:
			backoff, warned = r.conn.Backoff, false
		case !warned && err != nil:
			warned = true
			r.conn.Log.Warn("invalidations by other processes do not arrive", "error", r.conn.Explain(err))
		}
		if _, answered := rueidis.IsRedisErr(err); err != nil && !answered {
			r.conn.Trip(r.conn.Explain(err)) // the probe finds out whether more than the subscription is lost
		}
	}
}

// receive subscribes on a connection of its own, since Redis ends those on which messages
// pile up. It returns whether there was a subscription, and why that has ended.
func (r *Redis) receive(client rueidis.Client) (subscribed bool, err error) {
	dedicated, release := client.Dedicate()
	defer release()
	defer dedicated.Close()
	var confirmed atomic.Bool
	ctx := rueidis.WithOnSubscriptionHook(r.conn.Context(), func(s rueidis.PubSubSubscription) {
		if s.Kind == "subscribe" {
			confirmed.Store(true)
			r.counters.subscribed.Store(true)
			r.listeners.notify(nil)
		}
	})
	err = dedicated.Receive(ctx, dedicated.B().Subscribe().Channel(r.channel()).Build(), func(m rueidis.PubSubMessage) {
		r.listeners.notify(decode(m.Message))
	})
	r.counters.subscribed.Store(false)
	if confirmed.Load() && r.conn.Context().Err() == nil {
		r.counters.lost.Add(1)
		r.listeners.notify(nil)
	}
	return confirmed.Load(), err
}

// encode writes the message for invalidated subjects; null is everything.
func encode(subjects []string) string {
	for _, s := range subjects {
		if !utf8.ValidString(s) { // JSON would change it
			return "null"
		}
	}
	text, err := json.Marshal(subjects)
	if err != nil || len(text) > maxMessage || len(subjects) == 0 {
		return "null"
	}
	return string(text)
}

// decode takes a message that it cannot read for everything.
func decode(message string) []string {
	var subjects []string
	if len(message) > maxMessage || json.Unmarshal([]byte(message), &subjects) != nil || len(subjects) == 0 {
		return nil
	}
	return subjects
}

type listener struct{ invalidated func([]string) }

// listeners are called one after the other, under the lock: removing one waits for the call
// in progress.
type listeners struct {
	mu             sync.Mutex
	all            []*listener
	started, ended bool
}

// add calls start for the first one ever. A later one may have missed messages.
func (ls *listeners) add(l *listener, subscribed func() bool, start func()) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case ls.ended:
		return
	case !ls.started:
		ls.started = true
		start()
	case subscribed():
		l.invalidated(nil)
	}
	ls.all = append(ls.all, l)
}

func (ls *listeners) remove(l *listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all = slices.DeleteFunc(ls.all, func(other *listener) bool { return other == l })
}

func (ls *listeners) notify(subjects []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.all {
		l.invalidated(slices.Clone(subjects))
	}
}

func (ls *listeners) end() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all, ls.ended = nil, true
}
