package limitspage_test

import (
	"encoding/json"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/limitspage"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func namesOf(page limitspage.Page) []string {
	var names []string
	for _, l := range page.Limiters {
		names = append(names, l.Name)
	}
	return names
}

func TestThePageShowsRateLimits(t *testing.T) {
	limits, limiter := newLimits(t), newLimiter(t)
	limits.AddServer(limiter, "catalog")
	rule := func(name string, limit uint64, shadow bool) *policyv1.RateLimitRule {
		return &policyv1.RateLimitRule{Name: name, Limit: &limit, Burst: proto.Uint64(limit * 2), Period: proto.String("15m"), Shadow: &shadow}
	}
	handled := handle(t, &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{rule("all", 2, false), rule("tried", 1, true)}}, 5, limiter)
	l := limits.Page().Limiters[0]
	if handled != 4 || l.Name != "catalog" || l.Counts != (limitspage.Counts{Admitted: 4, Refused: 1, Shadowed: 2}) || l.Keys != 2 || len(l.Limits) != 2 {
		t.Fatalf("%d calls were handled, and it has %+v", handled, l)
	}
	all := limitspage.ID{Method: getSweet, Side: "server", Name: "all"}
	if want := (limitspage.Limit{Rule: limitspage.Rule{ID: all, Limit: 2, PeriodSeconds: 900, Burst: 4}, Refused: 1}); l.Limits[0] != want {
		t.Errorf("of one limit it has %+v, want %+v", l.Limits[0], want)
	}
	if tried := l.Limits[1]; tried.Rules != "shadow" || tried.Shadowed != 2 || tried.Refused != 0 {
		t.Errorf("of the one in shadow it has %+v", tried)
	}
	i := slices.IndexFunc(l.HotKeys, func(n limitspage.HotKey) bool { return n.ID == all })
	if i < 0 || l.HotKeys[i].Key != "" || l.HotKeys[i].Used < 0.99 || l.HotKeys[i].Remaining != 0 || l.HotKeys[i].ResetSeconds < 1700 {
		t.Errorf("the hot keys are %+v", l.HotKeys)
	}
}

func TestThePageShowsConcurrency(t *testing.T) {
	own, given := newConcurrency(t), newConcurrency(t)
	limits := limitspage.New(own)
	limits.AddHandlers(own, "catalog")
	limits.AddHandlers(given, "catalog")
	limits.AddHandlers(given, "prices")
	homonym := newConcurrency(t)
	limits.AddHandlers(homonym, "runtime") // a server may be called so
	handle(t, &policyv1.MethodPolicy{Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(7)}}, 3, given)
	page := limits.ConcurrencyPage()
	if len(page.Limiters) != 3 || page.Limiters[0].Name != "runtime" || page.Limiters[1].Name != "catalog" || page.Limiters[2].Name != "runtime 2" || len(page.Limiters[1].Methods) != 1 {
		t.Fatalf("it has %+v", page)
	}
	if got, want := page.Limiters[1].Methods[0], (limitspage.Method{Method: getSweet, Limit: 7, Admitted: 3}); got != want {
		t.Errorf("it has %+v, want %+v", got, want)
	}
	runtime.KeepAlive(homonym)
}

func TestLimitersHaveNamesOfTheirOwn(t *testing.T) {
	limits, shared := newLimits(t), newLimiter(t)
	given := []*ratelimit.Limiter{shared}
	add := func(to func(*ratelimit.Limiter, string), user string) {
		l := newLimiter(t)
		given = append(given, l)
		to(l, user)
	}
	limits.AddServer(shared, "catalog")
	limits.AddChannel(shared, "consul:///prices") // listed once
	add(limits.AddChannel, "consul:///catalog")
	add(limits.AddChannel, "consul:///catalog")
	add(limits.AddServer, "catalog")
	limits.AddChannel(nil, "nobody")
	if names := namesOf(limits.Page()); !slices.Equal(names, []string{"catalog", "catalog 2", "consul:///catalog", "consul:///catalog 2"}) {
		t.Errorf("it has %q", names)
	}
	for range 70 {
		add(limits.AddChannel, "many")
	}
	add(limits.AddServer, "the last") // which many channels do not keep out
	// Three servers and 64 channels, one of which is a server's.
	if names := namesOf(limits.Page()); len(names) != 66 || names[2] != "the last" {
		t.Errorf("it has %d: %q", len(names), names)
	}
	// The metrics are of all of them, whether the page has room or not.
	all := map[*ratelimit.Limiter]bool{}
	for _, l := range limits.Rates() {
		all[l] = true
	}
	if len(all) != len(given) {
		t.Errorf("there are %d, want all %d", len(all), len(given))
	}
	runtime.KeepAlive(given)
}

func TestNoLimiterIsKeptAlive(t *testing.T) {
	limits := newLimits(t)
	func() {
		l := newLimiter(t)
		limits.AddServer(l, "catalog")
		limits.AddChannel(newLimiter(t), "consul:///catalog")
		runtime.KeepAlive(l)
	}()
	for deadline := time.Now().Add(10 * time.Second); len(limits.Page().Limiters) > 0; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("they are still there after 10s")
		}
	}
}

// Scripts read it: what there is none of is [], not null or left out.
func TestThePageWithoutCalls(t *testing.T) {
	limits, limiter := newLimits(t), newLimiter(t)
	for _, test := range []struct {
		page func() any
		want string
	}{
		{func() any { return limits.Page() }, `{"limiters":[]}`},
		{func() any { limits.AddServer(limiter, "catalog"); return limits.Page() },
			`{"limiters":[{"name":"catalog","admitted":0,"refused":0,"shadowed":0,"waited":0,"refunded":0,"held_back":0,"keys":0,"forgotten":0,"limits":[],"hot_keys":[]}]}`},
		{func() any { return limits.ConcurrencyPage() }, `{"limiters":[{"name":"runtime","methods":[]}]}`},
	} {
		if got, err := json.Marshal(test.page()); err != nil || string(got) != test.want {
			t.Errorf("got %s (%v)\nwant %s", got, err, test.want)
		}
	}
	runtime.KeepAlive(limiter)
}
