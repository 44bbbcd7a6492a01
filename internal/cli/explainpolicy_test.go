package cli

import (
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/internal/explain"
)

// armWith is an arm with one target that is called.
func armWith(name string, share, timeout float64, usable int) routes.ArmExplanation {
	return routes.ArmExplanation{Name: name, Weight: share, Share: share, Timeout: timeout, Targets: []routes.TargetExplanation{
		{TargetStats: routes.TargetStats{ID: name, Connected: usable > 0, Usable: usable}}}}
}

// What bounds a call is written once, and where its retries go beside its target.
func TestTimeoutsAndRetriesAreExplained(t *testing.T) {
	one, two := armWith("v1", 90, 1000, 1), armWith("v2", 10, 1000, 1)
	for name, tt := range map[string]struct {
		policy  float64
		arms    []routes.ArmExplanation
		timeout string // lines
		crosses bool
	}{
		"nothing":          {0, nil, "timeout: that of the caller alone", false},
		"the policy":       {2000, []routes.ArmExplanation{armWith("v1", 100, 0, 2)}, "timeout: 2s by the policy", false},
		"the route":        {0, []routes.ArmExplanation{one, two}, "timeout: 1s by the route", true},
		"a shorter route":  {2000, []routes.ArmExplanation{one, two}, "timeout: 1s by the route, less than the 2s of the policy", true},
		"a shorter policy": {500, []routes.ArmExplanation{one, armWith("v2", 10, 1000, 0)}, "timeout: 500ms by the policy, less than the 1s of the route", false},
		"two resolvers": {2000, []routes.ArmExplanation{one, armWith("v2", 10, 0, 1), armWith("v3", 0, 5, 1)},
			"timeout of arm v1: 1s by the route, less than the 2s of the policy\ntimeout of arm v2: 2s by the policy", true},
	} {
		e := &explain.Explanation{Timeout: tt.policy, Routing: routes.Explanation{Arms: tt.arms}, Retry: retry.Plan{Attempts: 3, Codes: []string{"Unavailable"}}}
		root := &node{}
		root.addTimeout(e)
		root.addRetry(e)
		var lines []string
		for _, sub := range root.subs {
			lines = append(lines, sub.text)
		}
		last := len(lines) - 1
		if got := strings.Join(lines[:last], "\n"); got != tt.timeout {
			t.Errorf("%s: %q, want %q", name, got, tt.timeout)
		}
		if got := strings.Contains(lines[last], ", in another arm or failover target when its own has no instance left; "); got != tt.crosses {
			t.Errorf("%s: %q: crosses is %t", name, lines[last], got)
		}
	}
}
