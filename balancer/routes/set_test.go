package routes_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// site is a set with a chain.
type site struct {
	*routes.Set
	t testing.TB
}

func newSite(t testing.TB, opts ...routes.Option) *site {
	t.Helper()
	set, err := routes.NewSet("round_robin", []byte(`{"slowStart": {"window": "0s"}}`), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	return &site{set, t}
}

// set is what a resolver does.
func (s *site) set(chain *route.Chain, groups ...group) {
	s.t.Helper()
	to := routes.Snapshot{Chain: chain}
	for _, g := range groups {
		to.Targets = append(to.Targets, routes.Target{ID: g.id, Instances: instancesOf(g), Known: g.known})
	}
	if err := s.Update(to); err != nil {
		s.t.Fatal(err)
	}
}

func instancesOf(g group) []catalog.Instance {
	var all []catalog.Instance
	for i := range g.listed {
		address := balancertest.Address(g.first + i)
		all = append(all, catalog.Instance{ID: address, Address: address, Weight: 1})
	}
	return all
}

// send is what a transport does for one request: attempts are those that fail before one succeeds.
func (s *site) send(r *http.Request, failures int) (tried []int, at *attempt.Route, err error) {
	_, at, err = s.Choose(r)
	if err != nil {
		return nil, nil, err
	}
	record := attempt.New()
	record.SetRoute(at)
	for ; ; record = record.Next() {
		choice, err := s.Pick(record, r, r.Method)
		if err != nil {
			return tried, record.Route(), err
		}
		tried = append(tried, siteIndex(choice.Instance().Address))
		if failures--; failures < 0 {
			choice.Done(balancer.Result{Outcome: balancer.Succeeded, End: attempt.Over | attempt.Sent})
			return tried, record.Route(), nil
		}
		choice.Done(balancer.Result{Outcome: balancer.Ignored, End: attempt.Over | attempt.Sent})
	}
}

var indexes = func() map[string]int {
	all := map[string]int{}
	for i := range 400 {
		all[balancertest.Address(i)] = i
	}
	return all
}()

func siteIndex(address string) int { return indexes[address] }

func get(path string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func (s *site) wantShares(requests int, tolerance float64, want map[int]float64) {
	s.t.Helper()
	counts, got := map[int]int{}, map[int]float64{}
	for range requests {
		tried, _, err := s.send(get("/"), 0)
		if err != nil {
			s.t.Fatalf("a request fails: %v", err)
		}
		counts[tried[0]/100*100]++
	}
	for first, n := range counts {
		got[first] = float64(n) / float64(requests)
	}
	for _, first := range []int{0, 100, 200, 300} {
		if math.Abs(got[first]-want[first]) > tolerance || want[first] == 0 && got[first] != 0 {
			s.t.Errorf("endpoints from %d on have %.4f of %d requests, want %.4f (all %v)", first, got[first], requests, want[first], got)
		}
	}
}

func (s *site) reach(reachable bool, endpoints ...int) {
	for _, i := range endpoints {
		s.SetReachable(balancertest.Address(i), reachable)
	}
}

// Case T2
// Case T3
func TestSharesOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.set(chainOf(arm("v1", 90), arm("v2", 10)), v1, v2)
		s.wantShares(20_000, 0.001, map[int]float64{0: 0.9, 100: 0.1})
		s.reach(false, 100, 101, 102, 103)
		s.wantShares(1000, 0, map[int]float64{0: 1})
		if arms := s.Stats().Routes[0].Arms; !arms[1].Empty || arms[1].Share != 0 || arms[0].Share != 100 {
			t.Errorf("arms are %+v", arms)
		}
		s.reach(true, 100, 101, 102, 103)
		time.Sleep(routes.DefaultFailbackDelay)
		s.wantShares(1000, 0.002, map[int]float64{0: 0.9, 100: 0.1})
		s.set(nil, group{first: 300, listed: 2}) // the chain is deleted
		s.wantShares(100, 0, map[int]float64{300: 1})
		if routes := s.Stats().Routes; len(routes) > 0 {
			t.Error("there is a chain")
		}
	})
}

// Case T4
func TestRequestsFailOverInProportion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := newSite(t, routes.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		s.set(chainOf(arm("v1", 100, "v2", "other")), v1, v2, other)
		s.reach(false, 0, 1)
		s.wantShares(1000, 0, map[int]float64{0: 1}) // half is enough
		s.reach(false, 2)
		s.wantShares(1000, 0.002, map[int]float64{0: 0.5, 100: 0.5})
		s.reach(false, 3, 100, 101, 102, 103)
		s.wantShares(1000, 0, map[int]float64{200: 1})
		s.reach(true, 0, 1, 2, 3)
		time.Sleep(routes.DefaultFailbackDelay - time.Second)
		s.wantShares(1000, 0, map[int]float64{200: 1})
		s.reach(false, 1) // comes and goes
		s.reach(true, 1)
		time.Sleep(routes.DefaultFailbackDelay)
		s.wantShares(1000, 0, map[int]float64{0: 1})
		if text := log.String(); !strings.Contains(text, "fail over") || !strings.Contains(text, "has all its calls again") {
			t.Errorf("the log is %s", text)
		}
	})
}

// Case T8
func TestRetriesOfRequestsCrossArms(t *testing.T) {
	s := newSite(t)
	s.set(chainOf(arm("v1", 100), arm("v2", 0)), v1.of(2), v2.of(2))
	if tried, at, err := s.send(get("/"), 2); err == nil && at.Arm != "v1" || len(tried) < 2 || tried[0] >= 100 || tried[1] >= 100 || tried[0] == tried[1] {
		t.Errorf("attempts went to %v, then to %v, %v: an arm of weight 0 gets no retry", tried, at, err)
	}
	s.set(chainOf(arm("v1", 99.99), arm("v2", 0.01)), v1.of(2), v2.of(2))
	s.set(chainOf(arm("v1", 99.99), arm("v2", 0.01)), v1.of(2), v2.of(2))
	crossed := false
	for range 100 {
		tried, at, err := s.send(get("/"), 2)
		if err != nil || len(tried) != 3 {
			t.Fatal(tried, err)
		}
		crossed = crossed || tried[0] < 100 && tried[2] >= 100 && at.Arm == "v2"
	}
	if !crossed {
		t.Error("no retry has crossed")
	}
}

// Case T6
func TestRequestsBetweenTwoChains(t *testing.T) {
	s := newSite(t)
	s.set(nil, group{first: 300, listed: 2})
	r := get("/")
	_, plain, err := s.Choose(r)
	if plain != nil || err != nil {
		t.Fatal(plain, err)
	}
	s.set(chainOf(arm("v1", 100)), v1)
	_, first, err := s.Choose(r)
	if err != nil {
		t.Fatal(err)
	}
	s.set(chainOf(arm("v2", 100)), v2)
	s.set(chainOf(arm("v2", 100)), v2.of(3))
	for at, want := range map[*attempt.Route]int{plain: 300, first: 0} {
		record := attempt.New()
		record.SetRoute(at)
		choice, err := s.Pick(record, r, "GET")
		if err != nil || siteIndex(choice.Instance().Address)/100*100 != want {
			t.Errorf("%v: %v, %v, want from %d on", at, choice, err, want)
			continue
		}
		choice.Done(balancer.Result{Outcome: balancer.Succeeded})
	}
	s.Count(first, true)
}

func TestRequestsWhileChainsChange(t *testing.T) {
	s := newSite(t)
	chains := []*route.Chain{chainOf(arm("v1", 90), arm("v2", 10)), chainOf(arm("v2", 100, "v1")), nil}
	s.set(nil, group{first: 300, listed: 2})
	stop := make(chan struct{})
	var work sync.WaitGroup
	var sent [4]atomic.Int64
	for i := range sent {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, at, err := s.send(get("/"), 0); err != nil {
					t.Errorf("a request fails: %v", err)
					return
				} else {
					s.Count(at, true)
				}
				sent[i].Add(1)
				runtime.Gosched()
			}
		})
	}
	for i := range 60 {
		switch chain := chains[i%3]; {
		case chain == nil:
			s.set(nil, group{first: 300, listed: 2})
		default:
			s.set(chain, v1, v2)
		}
		s.reach(i%2 == 0, i%4, 100+i%4)
		s.Stats()
		s.Endpoints()
		for k := range sent { // a chain lasts longer than a request takes to be sent
			for before := sent[k].Load(); sent[k].Load() < before+2 && !t.Failed(); {
				runtime.Gosched()
			}
		}
	}
	close(stop)
	work.Wait()
}

// Case T13
func TestRequestsAreHashed(t *testing.T) {
	for name, test := range map[string]struct {
		lb *route.LoadBalancer
		of func(customer int) *http.Request
	}{
		"a header": {&route.LoadBalancer{Policy: "maglev", HashKey: "x-user"}, func(i int) *http.Request { return get("/", "X-User", fmt.Sprint(i)) }},
		"a cookie": {&route.LoadBalancer{Policy: "ring_hash", HashFrom: route.FromCookie, HashKey: "Sid"}, func(i int) *http.Request { return get("/", "Cookie", fmt.Sprint("a=b; Sid=", i)) }},
		"a parameter": {&route.LoadBalancer{Policy: "ring_hash", HashFrom: route.FromQuery, HashKey: "u"},
			func(i int) *http.Request { return get(fmt.Sprint("/?a=b&u=", i)) }},
		"an address": {&route.LoadBalancer{Policy: "maglev", HashFrom: route.FromAddress},
			func(i int) *http.Request { return get("/", "X-Forwarded-For", fmt.Sprint("192.0.2.", i)) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			a := arm("v1", 100)
			a.LoadBalancer = test.lb
			s.set(chainOf(a), v1)
			at, used := map[int]int{}, map[int]bool{}
			for i := range 400 {
				customer := i % 100
				tried, _, err := s.send(test.of(customer), 0)
				if err != nil {
					t.Fatal(err)
				}
				if before, ok := at[customer]; ok && before != tried[0] {
					t.Fatalf("customer %d goes to %d, then to %d", customer, before, tried[0])
				}
				at[customer], used[tried[0]] = tried[0], true
			}
			if len(used) != 4 {
				t.Errorf("customers are at %v, want four instances", used)
			}
			s.reach(false, 2)
			for customer, before := range at {
				if tried, _, err := s.send(test.of(customer), 0); err != nil || before != 2 && tried[0] != before || tried[0] == 2 {
					t.Errorf("customer %d was at %d and is at %v, %v", customer, before, tried, err)
				}
			}
		})
	}
}

// Without a hash in the request, or a policy that hashes nothing, requests are spread by chance.
func TestRequestsWithoutAHash(t *testing.T) {
	for _, lb := range []*route.LoadBalancer{{Policy: "ring_hash"}, {Policy: "maglev", HashKey: "x-user"}} {
		s := newSite(t)
		a := arm("v1", 100)
		a.LoadBalancer = lb
		s.set(chainOf(a), v1)
		used := map[int]bool{}
		for range 200 {
			tried, _, err := s.send(get("/"), 0)
			if err != nil {
				t.Fatal(err)
			}
			used[tried[0]] = true
		}
		if len(used) != 4 {
			t.Errorf("%+v: requests went to %v", lb, used)
		}
	}
}

func TestRequestsStickToAnArm(t *testing.T) {
	s := newSite(t)
	chain := chainOf(arm("v1", 50), arm("v2", 50))
	chain.Sticky = "x-user"
	s.set(chain, v1, v2)
	arms := map[string]int{}
	for i := range 300 {
		user := fmt.Sprint("user-", i%100)
		_, at, err := s.send(get("/", "X-User", user), 0)
		if err != nil {
			t.Fatal(err)
		}
		arms[user+" "+at.Arm]++
	}
	for key, n := range arms {
		if n != 3 {
			t.Errorf("%s has %d of three requests", key, n)
		}
	}
}

// Case T7
func TestRefusedChainsOfRequests(t *testing.T) {
	s := newSite(t)
	refused := &route.RefusedError{Service: "web", Parts: []string{"IdleTimeout"}}
	if err := s.Update(routes.Snapshot{Err: refused, Failed: true}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.send(get("/"), 0); !errors.Is(err, refused) {
		t.Errorf("a request has the error %v", err)
	}
	if stats := s.Stats(); !stats.Failed || stats.Service != "web" || !strings.Contains(stats.Error, "IdleTimeout") {
		t.Errorf("%+v", stats)
	}
	chain := chainOf(arm("v1", 100))
	s.set(chain, v1)
	if err := s.Update(routes.Snapshot{Chain: chain, Err: refused, Targets: []routes.Target{{ID: "v1", Instances: instancesOf(v1)}}}); err != nil {
		t.Fatal(err)
	}
	if _, at, err := s.send(get("/"), 0); err != nil || at.Arm != "v1" {
		t.Errorf("%v, %v", at, err)
	}
	if stats := s.Stats(); stats.Failed || !strings.Contains(stats.Error, "IdleTimeout") || len(stats.Routes) != 1 {
		t.Errorf("%+v", stats)
	}
	if err := s.Update(routes.Snapshot{Chain: &route.Chain{Service: "web"}}); err == nil {
		t.Error("a chain without a route is taken")
	}
}

func TestSetsAreChecked(t *testing.T) {
	for _, test := range []struct {
		policy, config string
		opts           []routes.Option
	}{
		{"best", "", nil}, {"round_robin", "{", nil}, {"hash", `{"metadataKey": "a"}`, nil}, {"round_robin", "", []routes.Option{routes.WithFailoverThreshold(2)}},
	} {
		if _, err := routes.NewSet(test.policy, []byte(test.config), test.opts...); err == nil {
			t.Errorf("%+v is taken", test)
		}
	}
}

// What a request costs that goes by plain discovery, and one that goes by 20 routes.
func BenchmarkSet(b *testing.B) {
	for name, chain := range map[string]*route.Chain{"plain": nil, "chain": chainOf(arm("v1", 90), arm("v2", 10))} {
		s := newSite(b)
		s.set(chain, v1, v2)
		r := get("/a")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := s.send(r, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
