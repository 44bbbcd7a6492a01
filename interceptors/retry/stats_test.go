package retry_test

import (
	"fmt"
	"testing"

	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// A proxy may be asked for any number of methods: Stats reports 4,096 of them. A method
// that is no longer retried makes room, and one that is known keeps its place.
func TestStatsReportABoundedNumberOfMethods(t *testing.T) {
	racetest.Skip(t)
	const most = 4096
	r, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	begin := func(i int, rule *policyv1.RetryRule) {
		m := meta(rule)
		m.Method = fmt.Sprintf("M%04d", i)
		m.FullMethod = "/shop.Catalog/" + m.Method
		r.UnaryClient(m)
	}
	rule := attempts(3)
	rule.AllowSideEffects = ptr(true)
	for i := range most + 100 {
		begin(i, rule)
	}
	if all := r.Stats(); len(all) != most || all[most-1].Method != "/shop.Catalog/M4095" {
		t.Fatalf("%d methods, the last is %v: want the first %d", len(all), all[len(all)-1], most)
	}
	broke := attempts(3)
	broke.AllowSideEffects, broke.Budget = ptr(true), ptr(0.0)
	begin(7, broke)
	begin(8, nil)
	begin(most+1, rule)
	all := r.Stats()
	if len(all) != most || all[7].Budget != 0 || all[8].Method != "/shop.Catalog/M0009" || all[most-1].Method != "/shop.Catalog/M4097" {
		t.Errorf("%d methods, %v, %v and at last %v, want M0007 without a budget, and M4097 for M0008", len(all), all[7], all[8], all[len(all)-1])
	}
}
