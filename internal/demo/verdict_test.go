package demo

import (
	"slices"
	"strings"
	"testing"
)

func TestEveryConditionCanFail(t *testing.T) {
	if broken := goodResult().Broken(); len(broken) > 0 {
		t.Fatalf("a good result is said to be broken: %q", broken)
	}
	for name, test := range map[string]struct {
		spoil func(*Result)
		want  string
	}{
		"a call failed":      {func(r *Result) { r.Failed = 1 }, "ordinary customers' failed calls: 1 of 8000, not 0"},
		"there were none":    {func(r *Result) { r.Calls = 0 }, "ordinary customers' failed calls: 0 of 0, not 0"},
		"too few calls":      {func(r *Result) { r.before.calls, r.before.orders = 1320, 132 }, "calls/s before the doubling: 198, not 200 or more"},
		"too few orders":     {func(r *Result) { r.before.orders = 158 }, "orders among them: 9.9%, not 10%"},
		"few at the gateway": {func(r *Result) { r.Gateway = 1999 }, "calls through the gateway: 1999, 25%, not 25% or more"},
		"an instance idles":  {func(r *Result) { r.cards[1].share.calls = 239 }, "instance farthest from its share: catalog-2 by -20.3%, not within 20%"},
		"an instance slogs":  {func(r *Result) { r.cards[0].share.calls = 220 }, "instance farthest from its share: catalog-1 by +23.6%, not within 20%"},
		"nothing to judge": {func(r *Result) {
			for i := range r.cards {
				r.cards[i].share = share{minExpected - 1, minExpected - 1}
			}
		}, "instance farthest from its share: too few calls, not within 20%"},
		"joined late":    {func(r *Result) { r.Joined = 1001 }, "first call of a new replica after: 1001 ms, not 1000 ms or less"},
		"never joined":   {func(r *Result) { r.Joined = 0 }, "first call of a new replica after: 0 ms, not 1000 ms or less"},
		"few hits":       {func(r *Result) { r.Cache = Cache{49, 51} }, "cache hits: 0.49, with misses, not 0.5 or more, and misses"},
		"no cache":       {func(r *Result) { r.Cache = Cache{} }, "cache hits: 0.00, with misses, not 0.5 or more, and misses"},
		"no more misses": {func(r *Result) { r.caches[faults].Misses = 0 }, "cache hits: 0.93, no misses in phase faults, not 0.5 or more, and misses"},
		"abuse":          {func(r *Result) { r.Abuser.Admitted = 1051 }, "admitted calls of the abuser: 1051, 2950 refused, not 1050 or less"},
		"no abuse":       {func(r *Result) { r.Refused = 0 }, "admitted calls of the abuser: 1050, 0 refused, not 1050 or less"},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodResult()
			test.spoil(r)
			if got := r.Broken(); !slices.Equal(got, []string{test.want}) {
				t.Errorf("got  %q\nwant %q", strings.Join(got, "; "), test.want)
			}
		})
	}
}

// Late calls alone are no failure, but may be the reason of one.
func TestABusyMachineIsNamed(t *testing.T) {
	r := goodResult()
	r.late = 401
	if broken := r.Broken(); len(broken) > 0 {
		t.Errorf("got %q, want that late calls break nothing", broken)
	}
	r.Failed = 1
	if broken := r.Broken(); len(broken) != 2 || !strings.Contains(broken[1], "401 of 8000 calls could not be sent when they were due") {
		t.Errorf("got %q, want the reason too", broken)
	}
}

// An inventory may be as far from the mean as it likes.
func TestUnevenByPlanIsNotJudged(t *testing.T) {
	r := goodResult()
	r.cards[2].share = share{1, 5000}
	if broken := r.Broken(); len(broken) > 0 {
		t.Errorf("got %q", broken)
	}
}
