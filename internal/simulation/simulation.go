// Package simulation drives the policies of a program, ours and gRPC's own, through
// calls that take no real time: a seeded discrete-event simulation. It is no model of
// the policies: what picks is the picker that gRPC would be given, in the virtual time
// of a testing/synctest bubble.
//
//	synctest.Test(t, func(t *testing.T) {
//		s := simulation.Scene{Policy: leastrequest.Name, Seed: 1, Backends: make([]simulation.Backend, 10)}
//		calls := s.Closed(t, 50, 10_000)
//		fmt.Println(simulation.Quantile(calls, 0.99))
//	})
//
// A backend takes as long as its function says, or works on so many calls at once and
// lets the others wait. Nothing is lost on the way, and nothing takes time there.
package simulation

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health/grpc_health_v1" // the contract of method
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// method is one that policies can find out to be unary.
const method = "/grpc.health.v1.Health/Check"

// Backend is one that answers. The zero value takes 1 ms.
type Backend struct {
	// Latency is how long the work on a call takes that begins at now, since the scene
	// began. Nil is 1 ms.
	Latency func(now time.Duration, random *rand.Rand) time.Duration
	// Code is how it answers. Nil is OK.
	Code func(now time.Duration, random *rand.Rand) codes.Code
	// Slots is how many calls it works on at once. 0 is any number.
	Slots int
	// Weight and Zone are what the directory says of it. A weight of 0 is 1.
	Weight uint32
	Zone   string
}

// Scene is a set of backends and who calls them.
type Scene struct {
	Policy string // its name in a service config
	Config string // of the policy, as JSON; empty is {}
	Seed   uint64
	// Clients are independent channels that take turns. 0 is one.
	Clients  int
	Zone     string // of the clients
	Backends []Backend
	Deadline time.Duration // of a call; 0 is none
	// During is called before each call with the time since the scene began, to change
	// the endpoints of the channels.
	During func(now time.Duration, channels []*balancertest.Channel)
}

// Call is one call that is over.
type Call struct {
	Start, Took time.Duration // since the scene began
	Client      int
	Backend     int
	Code        codes.Code
}

// Open sends calls at random times, rate a second (a Poisson process), for as long as
// lasts, whatever becomes of earlier ones.
func (s Scene) Open(t testing.TB, rate float64, lasts time.Duration) []Call {
	r := s.start(t)
	at := time.Duration(0)
	r.next = func() { // arrivals depend on nothing but the seed
		at += time.Duration(r.arrivals.ExpFloat64() / rate * float64(time.Second))
		if at < lasts {
			r.at(at, func() { r.next(); r.call(nil) })
		}
	}
	r.next()
	return r.run()
}

// Closed sends a number of calls, each as soon as one of those before is over:
// concurrency at once.
func (s Scene) Closed(t testing.TB, concurrency, calls int) []Call {
	r := s.start(t)
	var again func()
	again = func() {
		if calls > 0 {
			calls--
			r.call(again)
		}
	}
	for range concurrency {
		r.at(0, again)
	}
	return r.run()
}

// running is a scene at work, in one goroutine.
type running struct {
	Scene
	t        testing.TB
	began    time.Time
	now      time.Duration
	random   *rand.Rand // of the backends
	arrivals *rand.Rand
	channels []*balancertest.Channel
	queues   []queue
	events   events
	next     func()
	calls    []Call
	sent     int
	planned  int // events so far
}

// queue is the work of one backend.
type queue struct {
	busy    int
	waiting []func() // those to work on when a slot is free
}

func (s Scene) start(t testing.TB) *running {
	t.Helper()
	r := &running{
		Scene: s, t: t, began: time.Now(), queues: make([]queue, len(s.Backends)),
		random: rand.New(rand.NewPCG(s.Seed, 1)), arrivals: rand.New(rand.NewPCG(s.Seed, 2)),
	}
	if r.Config == "" {
		r.Config = "{}"
	}
	source := rand.NewPCG(s.Seed, 3)
	var mu sync.Mutex // pickers are made by other goroutines, too
	seeded := func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return source.Uint64()
	}
	for range max(s.Clients, 1) {
		c := balancertest.New(t, s.Policy)
		c.Table, c.Zone = balancer.NewSeededTable(seeded), s.Zone
		c.ReadyInstances(r.Config, s.Instances()...)
		r.channels = append(r.channels, c)
	}
	return r
}

// Instances are the backends as the directory lists them.
func (s Scene) Instances() []*catalog.Instance {
	weights := make([]uint32, len(s.Backends))
	for i, b := range s.Backends {
		weights[i] = max(b.Weight, 1)
	}
	instances := balancertest.Instances(weights...)
	for i, b := range s.Backends {
		instances[i].Zone = b.Zone
	}
	return instances
}

// run plays all events and answers the calls in the order of their ends.
func (r *running) run() []Call {
	for len(r.events) > 0 {
		e := heap.Pop(&r.events).(event)
		if wait := e.at - r.now; wait > 0 {
			time.Sleep(wait)
			synctest.Wait() // for the timers of the policies
			r.now = e.at
		}
		e.do()
	}
	return r.calls
}

// at does something at a time.
func (r *running) at(when time.Duration, do func()) {
	r.planned++
	heap.Push(&r.events, event{max(when, r.now), r.planned, do})
}

// call picks a backend and sends it a call; over is called after its end.
func (r *running) call(over func()) {
	if r.During != nil {
		r.During(r.now, r.channels)
	}
	client := r.sent % len(r.channels)
	r.sent++
	picked, err := r.channels[client].Picker().Pick(grpcbalancer.PickInfo{FullMethodName: method, Ctx: context.Background()})
	if err != nil {
		r.t.Errorf("at %v: %v", r.now, err)
		return
	}
	c := Call{Start: r.now, Client: client, Backend: balancertest.IndexOf(picked)}
	ended := false
	end := func(code codes.Code) {
		if ended {
			return
		}
		ended = true
		c.Took, c.Code = r.now-c.Start, code
		r.calls = append(r.calls, c)
		if picked.Done != nil {
			picked.Done(doneInfo(code))
		}
		if over != nil {
			over()
		}
	}
	if r.Deadline > 0 {
		r.at(r.now+r.Deadline, func() { end(codes.DeadlineExceeded) })
	}
	r.arrive(c.Backend, end)
}

// doneInfo is what gRPC reports of a call. An error of a server comes as trailers only.
func doneInfo(code codes.Code) grpcbalancer.DoneInfo {
	info := grpcbalancer.DoneInfo{Err: status.Error(code, ""), BytesSent: true, BytesReceived: code != codes.DeadlineExceeded}
	if code != codes.OK && info.BytesReceived {
		info.Trailer = metadata.Pairs("content-type", "application/grpc")
	}
	return info
}

// arrive gives a call to a backend, or lets it wait there.
func (r *running) arrive(i int, end func(codes.Code)) {
	b, q := &r.Backends[i], &r.queues[i]
	work := func() {
		q.busy++
		took, code := time.Millisecond, codes.OK
		if b.Latency != nil {
			took = b.Latency(r.now, r.random)
		}
		if b.Code != nil {
			code = b.Code(r.now, r.random)
		}
		r.at(r.now+took, func() {
			q.busy--
			if len(q.waiting) > 0 {
				next := q.waiting[0]
				q.waiting = q.waiting[1:]
				next()
			}
			end(code)
		})
	}
	if b.Slots > 0 && q.busy >= b.Slots {
		q.waiting = append(q.waiting, work)
		return
	}
	work()
}

// event is something that happens at a time; those at one time in their order.
type event struct {
	at    time.Duration
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

// Quantile is the latency that a part of the calls does not exceed.
func Quantile(calls []Call, part float64) time.Duration {
	all := make([]time.Duration, len(calls))
	for i, c := range calls {
		all[i] = c.Took
	}
	slices.Sort(all)
	return all[min(int(part*float64(len(all))), len(all)-1)]
}

// Counts are the calls that each backend had.
func Counts(calls []Call, backends int) []int {
	counts := make([]int, backends)
	for _, c := range calls {
		counts[c.Backend]++
	}
	return counts
}
