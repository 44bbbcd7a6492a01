package authzmetrics_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/interceptors/authz/authzmetrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	a, err := authz.New("catalog", authz.WithIntentions(intention.Set{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(authzmetrics.New(func() []authz.Stats { return []authz.Stats{a.Stats()} })))
	// Output: <nil>
}

// Case metrics
func TestEachFigureHasItsSeries(t *testing.T) {
	one := authz.Stats{Service: "catalog", Allowed: 1, Denied: authz.Denials{Rule: 2, Default: 3, Identity: 4, NeverRead: 5}, Revoked: 6,
		Intentions: 7, Refused: []string{"x"}, ReadAt: time.UnixMilli(1500)}
	c := authzmetrics.New(func() []authz.Stats {
		return []authz.Stats{one, one, {Service: "\xff"}, {Service: "\xfe"}}
	})
	want := `
# HELP meshlite_authz_calls_total Calls and streams that were decided about, and open streams that were revoked, by result.
# TYPE meshlite_authz_calls_total counter
meshlite_authz_calls_total{result="allowed",service="?"} 0
meshlite_authz_calls_total{result="allowed",service="catalog"} 2
meshlite_authz_calls_total{result="denied_by_default",service="?"} 0
meshlite_authz_calls_total{result="denied_by_default",service="catalog"} 6
meshlite_authz_calls_total{result="denied_by_rule",service="?"} 0
meshlite_authz_calls_total{result="denied_by_rule",service="catalog"} 4
meshlite_authz_calls_total{result="denied_never_read",service="?"} 0
meshlite_authz_calls_total{result="denied_never_read",service="catalog"} 10
meshlite_authz_calls_total{result="denied_without_identity",service="?"} 0
meshlite_authz_calls_total{result="denied_without_identity",service="catalog"} 8
meshlite_authz_calls_total{result="revoked",service="?"} 0
meshlite_authz_calls_total{result="revoked",service="catalog"} 12
# HELP meshlite_authz_intentions Intentions in force.
# TYPE meshlite_authz_intentions gauge
meshlite_authz_intentions{service="?"} 0
meshlite_authz_intentions{service="catalog"} 7
# HELP meshlite_authz_read_timestamp_seconds When intentions were read last. 0 is never: all calls are denied.
# TYPE meshlite_authz_read_timestamp_seconds gauge
meshlite_authz_read_timestamp_seconds{service="?"} 0
meshlite_authz_read_timestamp_seconds{service="catalog"} 1.5
# HELP meshlite_authz_refused_intentions Intentions in force that are not understood, and deny or match nobody.
# TYPE meshlite_authz_refused_intentions gauge
meshlite_authz_refused_intentions{service="?"} 0
meshlite_authz_refused_intentions{service="catalog"} 1
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus says %v %v", problems, err)
	}
}

// A collector that describes nothing could be registered twice, and every scrape after that
// would fail.
func TestASecondCollectorIsRefused(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(authzmetrics.New(func() []authz.Stats { return []authz.Stats{{Service: "catalog"}} })); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) != 4 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(authzmetrics.New(nil)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}
