package identitymetrics_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/identitymetrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	mtls, err := identity.New(&identity.Feed{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mtls.Close()
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(identitymetrics.New(func() []identity.Stats { return []identity.Stats{mtls.Stats()} })))
	// Output: <nil>
}

// Case metrics
func TestEachFigureHasItsSeries(t *testing.T) {
	one := identity.Stats{Service: "catalog", ValidFrom: time.UnixMilli(1500), ValidUntil: time.UnixMilli(2500), Source: identity.SourceStats{Published: 1, Failed: 2},
		Connections: 3, Clients: 4, Servers: 5, Refused: map[identity.Reason]uint64{identity.Expired: 6, "of another version": 7}, Replaced: 8, Cut: 9,
		Plaintext: identity.PlaintextStats{Open: 10, Connections: 11}}
	later := one
	later.ValidFrom, later.ValidUntil = time.UnixMilli(3500), time.UnixMilli(4500)
	for _, order := range [][]identity.Stats{{one, later}, {later, one}} {
		c := identitymetrics.New(func() []identity.Stats { return order })
		want := `
# HELP meshlite_identity_connections Connections of mutual TLS that are open.
# TYPE meshlite_identity_connections gauge
meshlite_identity_connections{service="catalog"} 6
# HELP meshlite_identity_ended_connections_total Connections that were replaced before a certificate ended, or closed at its end.
# TYPE meshlite_identity_ended_connections_total counter
meshlite_identity_ended_connections_total{how="closed",service="catalog"} 18
meshlite_identity_ended_connections_total{how="replaced",service="catalog"} 16
# HELP meshlite_identity_handshakes_total Handshakes of mutual TLS that succeeded.
# TYPE meshlite_identity_handshakes_total counter
meshlite_identity_handshakes_total{service="catalog",side="client"} 8
meshlite_identity_handshakes_total{service="catalog",side="server"} 10
# HELP meshlite_identity_not_after_timestamp_seconds When the certificate of this process ends. 0 is no certificate.
# TYPE meshlite_identity_not_after_timestamp_seconds gauge
meshlite_identity_not_after_timestamp_seconds{service="catalog"} 2.5
# HELP meshlite_identity_not_before_timestamp_seconds When the certificate of this process began to be valid. 0 is no certificate.
# TYPE meshlite_identity_not_before_timestamp_seconds gauge
meshlite_identity_not_before_timestamp_seconds{service="catalog"} 1.5
# HELP meshlite_identity_plaintext_connections Plaintext connections that are open at a permissive server.
# TYPE meshlite_identity_plaintext_connections gauge
meshlite_identity_plaintext_connections{service="catalog"} 20
# HELP meshlite_identity_plaintext_connections_total Plaintext connections that a permissive server has accepted.
# TYPE meshlite_identity_plaintext_connections_total counter
meshlite_identity_plaintext_connections_total{service="catalog"} 22
# HELP meshlite_identity_renewals_total Certificates or roots that were received, and attempts that failed.
# TYPE meshlite_identity_renewals_total counter
meshlite_identity_renewals_total{result="failed",service="catalog"} 4
meshlite_identity_renewals_total{result="ok",service="catalog"} 2
# HELP meshlite_identity_refusals_total Connections that one end has refused, by reason.
# TYPE meshlite_identity_refusals_total counter
`
		for _, reason := range identity.Reasons() {
			n := 0
			if reason == identity.Expired {
				n = 12
			}
			want += fmt.Sprintf("meshlite_identity_refusals_total{reason=%q,service=\"catalog\"} %d\n", reason, n)
		}
		if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("the linter of Prometheus says %v %v", problems, err)
		}
	}
}

// A process that never got a certificate is one whose certificate has ended, whatever others
// of it have.
func TestNoCertificateIsAnEndedOne(t *testing.T) {
	good := identity.Stats{Service: "catalog", ValidFrom: time.UnixMilli(1500), ValidUntil: time.UnixMilli(2500)}
	for name, test := range map[string]struct {
		stats   []identity.Stats
		service string
	}{
		"one of two":       {[]identity.Stats{good, {Service: "catalog"}}, "catalog"},
		"the first of two": {[]identity.Stats{{Service: "catalog"}, good}, "catalog"},
		"no name":          {[]identity.Stats{{}}, "unknown"},
		"no text":          {[]identity.Stats{{Service: "\xff"}, {Service: "\xfe"}}, "?"},
	} {
		want := fmt.Sprintf("# HELP meshlite_identity_not_after_timestamp_seconds When the certificate of this process ends. 0 is no certificate.\n"+
			"# TYPE meshlite_identity_not_after_timestamp_seconds gauge\nmeshlite_identity_not_after_timestamp_seconds{service=%q} 0\n", test.service)
		c := identitymetrics.New(func() []identity.Stats { return test.stats })
		if err := testutil.CollectAndCompare(c, strings.NewReader(want), "meshlite_identity_not_after_timestamp_seconds"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A collector that describes nothing could be registered twice, and every scrape after that
// would fail.
func TestASecondCollectorIsRefused(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(identitymetrics.New(func() []identity.Stats { return []identity.Stats{{Service: "catalog"}} })); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) != 9 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(identitymetrics.New(nil)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}
