package routes_test

import (
	"context"
	"fmt"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// twenty is a chain of routes of which the last takes the calls, and each has two arms.
func twenty(n int, match func(i int) route.Match) *route.Chain {
	c := chainOf(arm("v1", 90), arm("v2", 10))
	last := c.Routes[0]
	c.Routes = nil
	for i := range n - 1 {
		c.Routes = append(c.Routes, &route.Route{Name: fmt.Sprint("route ", i), Match: match(i), Arms: last.Arms})
	}
	c.Routes = append(c.Routes, last)
	return c
}

func byPrefix(i int) route.Match {
	return route.Match{PathPrefix: fmt.Sprintf("/shop.v%d.Catalog/", i)}
}

func byHeader(i int) route.Match {
	return route.Match{Headers: []route.HeaderMatch{{Name: "x-canary", Exact: fmt.Sprint(i)}}}
}

func routerOf(t testing.TB, chain *route.Chain) *routes.Router {
	t.Helper()
	router, err := routes.NewRouter()
	if err != nil {
		t.Fatal(err)
	}
	router.Update(chain, nil)
	return router
}

// Choosing allocates nothing, and a pick no more than that of the leaf: nothing.
func TestRoutingAllocatesNothing(t *testing.T) {
	ctx := context.Background()
	for name, chain := range map[string]*route.Chain{"none": nil, "20 by path": twenty(20, byPrefix), "20 by header": twenty(20, byHeader)} {
		router := routerOf(t, chain)
		if n := testing.AllocsPerRun(1000, func() {
			if _, _, err := router.Choose(ctx, method); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("with the routes %s a choice makes %v allocations", name, n)
		}
	}

	f := newFleet(t)
	f.set(twenty(20, byPrefix), v1, v2)
	f.ready(v1, v2)
	record := attempt.New()
	routed := attempt.NewContext(ctx, record)
	for name, ctx := range map[string]context.Context{"without a record": ctx, "with a record": routed} {
		info := grpcbalancer.PickInfo{FullMethodName: method, Ctx: ctx}
		picker := f.Picker()
		if n := testing.AllocsPerRun(1000, func() {
			_, at, _ := f.router.Choose(ctx, method)
			record.SetRoute(at)
			result, err := picker.Pick(info)
			if err != nil {
				t.Fatal(err)
			}
			result.Done(success)
		}); n != 0 {
			t.Errorf("a pick %s makes %v allocations", name, n)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	sticky := twenty(20, byPrefix)
	sticky.Sticky = "x-customer"
	for _, bench := range []struct {
		name  string
		chain *route.Chain
		ctx   context.Context
	}{
		{"none", nil, context.Background()},
		{"1", twenty(1, byPrefix), context.Background()},
		{"20-paths", twenty(20, byPrefix), with("x-customer", "41")},
		{"20-headers", twenty(20, byHeader), with("x-customer", "41")},
		{"20-paths-sticky", sticky, with("x-customer", "41")},
		{"1000-paths", twenty(1000, byPrefix), context.Background()},
	} {
		b.Run(bench.name, func(b *testing.B) {
			router := routerOf(b, bench.chain)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := router.Choose(bench.ctx, method); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The difference to the pick of a leaf alone, which has the chain "none".
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{0, 20} {
		name, chain := "none", (*route.Chain)(nil)
		if n > 0 {
			name, chain = fmt.Sprint(n), twenty(n, byPrefix)
		}
		b.Run(name, func(b *testing.B) {
			f := newFleet(b)
			f.set(chain, v1, v2)
			f.ready(v1)
			if n > 0 {
				f.ready(v2)
			}
			record := attempt.New()
			info := grpcbalancer.PickInfo{FullMethodName: method, Ctx: attempt.NewContext(context.Background(), record)}
			_, at, _ := f.router.Choose(info.Ctx, method)
			record.SetRoute(at)
			picker := f.Picker()
			b.ReportAllocs()
			for b.Loop() {
				result, err := picker.Pick(info)
				if err != nil {
					b.Fatal(err)
				}
				result.Done(success)
			}
		})
	}
}
