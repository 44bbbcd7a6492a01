package route_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/resolver/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// metadata is that of a call.
type metadata map[string][]string

func (m metadata) Get(key string) []string { return m[key] }

// chainOf is a checked chain of these matches, whose last route takes every other call.
func chainOf(t testing.TB, matches ...route.Match) *route.Chain {
	t.Helper()
	c := &route.Chain{Service: "catalog", Datacenter: "dc1", Targets: map[string]*route.Target{"t": {ID: "t", Service: "catalog", Datacenter: "dc1"}}}
	for i, m := range append(matches, route.Match{}) {
		c.Routes = append(c.Routes, &route.Route{
			Name: fmt.Sprintf("route %d", i+1), Match: m,
			Arms: []*route.Arm{{Name: "catalog", Weight: 100, Target: "t"}},
		})
	}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	return c
}
