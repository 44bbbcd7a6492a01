package mirrormetrics_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/mirror/mirrormetrics"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	mirrored, err := mirror.New(func(string) (mirror.Conn, error) { return nil, errors.New("grpc.NewClient of the target") })
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(mirrormetrics.New(mirrored.Stats)))
	// Output: <nil>
}

// Case metrics
func TestCopiesOfAllChannelsAreSummedAndDoNotFall(t *testing.T) {
	one := mirror.Stats{
		Method: "/shop.Catalog/GetSweet", Target: "catalog/v2", InFlight: 3,
		Codes: map[string]uint64{"OK": 5, "Unavailable": 1}, Dropped: map[string]uint64{"calls": 2},
		Same: 3, Different: 2, Differences: []mirror.Difference{{Path: "sweet.name", Count: 2}, {Path: "\xff", Count: 1}},
	}
	other := mirror.Stats{Method: "/shop.Catalog/GetSweet", Target: "catalog/v2", Codes: map[string]uint64{"OK": 10}}
	stats := []mirror.Stats{one, other, {Method: mirror.Other, Target: mirror.Other, Codes: map[string]uint64{"OK": 1}}}
	collector := mirrormetrics.New(func() []mirror.Stats { return stats })
	of := `grpc_method="GetSweet",grpc_service="shop.Catalog"`
	want := func(ok int) string {
		return fmt.Sprintf(`
# HELP meshlite_mirror_answers_total Answers to copies that were compared with those of callers.
# TYPE meshlite_mirror_answers_total counter
meshlite_mirror_answers_total{%[1]s,result="different",target="catalog/v2"} 2
meshlite_mirror_answers_total{%[1]s,result="same",target="catalog/v2"} 3
# HELP meshlite_mirror_copies_total Copies of calls that have ended, by their code.
# TYPE meshlite_mirror_copies_total counter
meshlite_mirror_copies_total{grpc_code="OK",grpc_method="(other)",grpc_service="(other)",target="(other)"} 1
meshlite_mirror_copies_total{grpc_code="OK",%[1]s,target="catalog/v2"} %[2]d
meshlite_mirror_copies_total{grpc_code="Unavailable",%[1]s,target="catalog/v2"} 1
# HELP meshlite_mirror_differences_total Answers to copies that differ, by the path of a field in which they do.
# TYPE meshlite_mirror_differences_total counter
meshlite_mirror_differences_total{field="?",%[1]s,target="catalog/v2"} 1
meshlite_mirror_differences_total{field="sweet.name",%[1]s,target="catalog/v2"} 2
# HELP meshlite_mirror_dropped_total Calls that were to be copied and were not, by the reason.
# TYPE meshlite_mirror_dropped_total counter
meshlite_mirror_dropped_total{%[1]s,reason="calls",target="catalog/v2"} 2
# HELP meshlite_mirror_in_flight Copies of calls that wait for their answers.
# TYPE meshlite_mirror_in_flight gauge
meshlite_mirror_in_flight{grpc_method="(other)",grpc_service="(other)",target="(other)"} 0
meshlite_mirror_in_flight{%[1]s,target="catalog/v2"} 3
`, of, ok)
	}
	if err := testutil.CollectAndCompare(collector, strings.NewReader(want(15))); err != nil {
		t.Error(err)
	}
	stats = append(stats[:1:1], stats[2:]...) // the other channel is gone
	if err := testutil.CollectAndCompare(collector, strings.NewReader(want(15))); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(mirrormetrics.New(nil)); n != 0 {
		t.Errorf("%d series of nothing", n)
	}
}

func TestASecondCollectorIsRefused(t *testing.T) {
	stats := func() []mirror.Stats { return []mirror.Stats{{Method: "/p.S/M", Target: "next"}} }
	seriestest.RefusesASecond(t, func() prometheus.Collector { return mirrormetrics.New(stats) })
}
