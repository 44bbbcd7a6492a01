package redis

import (
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/redis/rueidis"
)

// maxMessage is the most that is said of subjects, and believed. More is everything.
const maxMessage = 64 << 10

// Subscribe calls invalidated with the subjects that any process invalidates, this one
// too, one call at a time. It is called with nil, for everything, when some may have been
// missed: when the subscription was lost, and whenever it has come to be. In between, and
// while Redis is away, nothing is heard, and a copy lives until its ttl ends. All
// subscribers share one connection, and wait for each other. Neither cancel nor Close may
// be called by invalidated.
func (r *Redis) Subscribe(invalidated func(subjects []string)) (cancel func()) {
	l := &listener{invalidated}
	r.listeners.add(l, r.counters.subscribed.Load, func() { r.conn.Go(r.listen) })
	return sync.OnceFunc(func() { r.listeners.remove(l) })
}

func (r *Redis) channel() string { return r.conn.Prefix + "invalidated" }

// listen keeps up the subscription while Redis is well.
func (r *Redis) listen() {
	for backoff, deaf := r.conn.Backoff, false; ; backoff = r.conn.Pause(backoff) {
		for !r.conn.Connected() {
			select {
			case <-r.conn.Back():
			case <-r.conn.Context().Done():
				return
			}
		}
		heard, err := r.hear(r.conn.Client())
		switch {
		case r.conn.Context().Err() != nil:
			return
		case heard:
			backoff, deaf = r.conn.Backoff, false
		case !deaf && err != nil:
			deaf = true
			r.conn.Log.Warn("invalidations by other processes are not heard", "error", r.conn.Explain(err))
		}
		if _, answered := rueidis.IsRedisErr(err); err != nil && !answered {
			r.conn.Trip(r.conn.Explain(err)) // it is soon found out whether more than that is lost
		}
	}
}

// hear listens on a connection of its own, since Redis ends those on which messages pile
// up. It reports whether there was a subscription, and why there is none any more.
func (r *Redis) hear(client rueidis.Client) (heard bool, err error) {
	dedicated, release := client.Dedicate()
	defer release()
	defer dedicated.Close()
	var confirmed atomic.Bool
	ctx := rueidis.WithOnSubscriptionHook(r.conn.Context(), func(s rueidis.PubSubSubscription) {
		if s.Kind == "subscribe" {
			confirmed.Store(true)
			r.counters.subscribed.Store(true)
			r.listeners.tell(nil)
		}
	})
	err = dedicated.Receive(ctx, dedicated.B().Subscribe().Channel(r.channel()).Build(), func(m rueidis.PubSubMessage) {
		r.listeners.tell(decode(m.Message))
	})
	r.counters.subscribed.Store(false)
	if confirmed.Load() && r.conn.Context().Err() == nil {
		r.counters.lost.Add(1)
		r.listeners.tell(nil)
	}
	return confirmed.Load(), err
}

// encode says which subjects were invalidated; null is everything.
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

// decode takes what it does not understand for everything.
func decode(message string) []string {
	var subjects []string
	if len(message) > maxMessage || json.Unmarshal([]byte(message), &subjects) != nil || len(subjects) == 0 {
		return nil
	}
	return subjects
}

type listener struct{ invalidated func([]string) }

// listeners are called one after the other. Whoever has the lock has waited for the call
// that was under way.
type listeners struct {
	mu             sync.Mutex
	all            []*listener
	started, ended bool
}

// add calls start for the first one ever. Later ones cannot know what was said before.
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

func (ls *listeners) tell(subjects []string) {
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
