package routes_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// world is what a random test does to a channel.
type world struct {
	*fleet
	random *rand.Rand
	groups []group
	up     map[int]bool
	chain  *route.Chain
	story  []string
}

func (w *world) did(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

// change does one thing.
func (w *world) change() {
	switch g := &w.groups[w.random.IntN(len(w.groups))]; w.random.IntN(6) {
	case 0:
		w.chain = w.newChain()
		w.publish()
	case 1:
		g.listed = w.random.IntN(g.known + 1)
		w.did("%d of %s are healthy", g.listed, g.id)
		w.publish()
	case 2:
		for i := range g.known {
			w.up[g.first+i] = false
		}
		w.did("%s is lost", g.id)
	case 3:
		for i := range g.known {
			w.up[g.first+i] = true
		}
		w.did("%s is back", g.id)
	case 4:
		i := g.first + w.random.IntN(g.known)
		w.up[i] = !w.up[i]
		w.did("endpoint %d is up: %v", i, w.up[i])
	case 5:
		d := time.Duration(w.random.IntN(15_000)) * time.Millisecond
		w.did("%v pass", d)
		time.Sleep(d)
	}
}

func (w *world) newChain() *route.Chain {
	if w.random.IntN(5) == 0 {
		w.did("no chain")
		return nil
	}
	order := w.random.Perm(len(w.groups))
	n := 1 + w.random.IntN(len(order))
	var arms []*route.Arm
	left := 100.0
	for i, g := range order[:n] {
		weight := float64(w.random.IntN(int(left) + 1))
		if i == n-1 {
			weight = left
		}
		left -= weight
		a := arm(w.groups[g].id, weight)
		for _, f := range w.random.Perm(len(w.groups))[:w.random.IntN(3)] {
			a.Failover = append(a.Failover, w.groups[f].id)
		}
		arms = append(arms, a)
		w.did("arm %s %v, failover %v", a.Name, weight, a.Failover)
	}
	return chainOf(arms...)
}

func (w *world) publish() {
	if w.chain == nil {
		w.set(nil, w.groups[0])
		return
	}
	var groups []group
	for _, g := range w.groups {
		if w.chain.Targets[g.id] != nil {
			groups = append(groups, g)
		}
	}
	w.set(w.chain, groups...)
}

// alive reports whether an endpoint of a target is listed and up.
func (w *world) alive(id string) bool {
	for _, g := range w.groups {
		for i := range g.listed {
			if g.id == id && w.up[g.first+i] {
				return true
			}
		}
	}
	return false
}

// reachable are the targets that calls may go to, of arms with weight.
func (w *world) reachable() map[string]bool {
	if w.chain == nil {
		return map[string]bool{w.groups[0].id: w.alive(w.groups[0].id)}
	}
	found := map[string]bool{}
	for _, a := range w.chain.Routes[0].Arms {
		for _, id := range append([]string{a.Target}, a.Failover...) {
			if a.Weight > 0 && w.alive(id) {
				found[id] = true
			}
		}
	}
	return found
}

// check makes calls, with retries.
func (w *world) check() error {
	want := w.reachable()
	anything := len(want) > 0 && (w.chain != nil || want[w.groups[0].id])
	for range 20 {
		i, record, err := w.call(context.Background())
		for again := 0; err == nil && record.HasUntried() && again < 30; again++ {
			record = record.Next()
			i, err = w.try(context.Background(), record)
		}
		switch {
		case errors.Is(err, grpcbalancer.ErrNoSubConnAvailable):
			return errors.New("a call waits, and nothing is being connected")
		case err != nil && anything:
			return fmt.Errorf("a call fails, and %v are alive: %w", want, err)
		case err == nil && !w.up[i]:
			return fmt.Errorf("a call goes to %d, which is down", i)
		case err == nil && w.chain != nil && !want[record.Route().Target]:
			return fmt.Errorf("a call goes to %q, and %v are alive", record.Route().Target, want)
		}
	}
	return nil
}

// Whatever happens to chains, lists and connections: a call is sent where something is alive, and
// fails when nothing is.
func TestRandomChanges(t *testing.T) {
	racetest.Skip(t)
	seeds := 60
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			w := &world{
				fleet: newFleet(t), random: rand.New(rand.NewPCG(uint64(seed), 1)), up: map[int]bool{},
				groups: []group{{id: "v1", first: 0, listed: 3, known: 3}, {id: "v2", first: 100, listed: 1, known: 1}, {id: "other", first: 200, listed: 4, known: 5}},
			}
			for _, g := range w.groups {
				for i := range g.known {
					w.up[g.first+i] = true
				}
			}
			w.config = `{"child": [{"meshlite_least_request": {"ejection": {"disabled": true}}}]}`
			w.chain = w.newChain()
			w.publish()
			serve := func() { w.Serve(func(i int) bool { return w.up[i] }, settle) }
			serve()
			for range 40 {
				w.change()
				serve()
				if err := w.check(); err != nil {
					t.Fatalf("seed %d: %v, after\n%s", seed, err, strings.Join(w.story, "\n"))
				}
			}
		})
	}
}
