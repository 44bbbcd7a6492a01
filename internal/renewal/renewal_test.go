package renewal_test

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/renewal"
	"github.com/meshlite-go/meshlite/internal/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const catalog = "spiffe://a.consul/ns/default/dc/dc1/svc/catalog"

func attempts(t *testing.T, life time.Duration) (*renewal.Attempts, *sourcetest.Log) {
	t.Helper()
	feed, log := &identity.Feed{}, &sourcetest.Log{}
	if life > 0 {
		authority := certtest.New(t)
		s, err := identity.NewSnapshot(authority.IssueID(t, life, catalog), []*x509.Certificate{authority.Certificate()})
		if err != nil {
			t.Fatal(err)
		}
		feed.Publish(s)
	}
	return renewal.New(feed, "Consul", slog.New(slog.NewTextHandler(log, nil))), log
}

// Attempts after failures are at bounded intervals: soon at first, and all of 15 s at most,
// but for a leaf that has long to go.
func TestPausesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			life         time.Duration
			leafAtMost   time.Duration
			leafSpreadBy time.Duration // at least, among many processes
		}{
			"none": {0, 15 * time.Second, time.Second}, "ends soon": {9 * time.Minute, 15 * time.Second, time.Second}, "long": {time.Hour, renewal.Spread + time.Second, 20 * time.Second},
		} {
			a, log := attempts(t, test.life)
			shortest, longest := time.Hour, time.Duration(0)
			for failures := range 200 {
				a.Record(errors.New("down"))
				if p := a.Pause(); p < 250*time.Millisecond || p > 15*time.Second || failures == 0 && p > time.Second || failures > 10 && p < 7*time.Second {
					t.Errorf("%s: the pause after failure %d is %v", name, failures+1, p)
				}
				p := a.LeafPause()
				shortest, longest = min(shortest, p), max(longest, p)
			}
			if shortest < 250*time.Millisecond || longest > test.leafAtMost || longest-shortest < test.leafSpreadBy {
				t.Errorf("%s: leaves are asked for after %v to %v", name, shortest, longest)
			}
			a.Record(nil)
			a.Record(nil)
			if text := log.String(); strings.Count(text, "level=WARN") != 1 || strings.Count(text, "level=INFO") != 1 ||
				strings.Contains(text, "the last certificate stays") != (test.life > 0) {
				t.Errorf("%s: an outage is logged as:\n%s", name, text)
			}
			a.Record(errors.New("down again"))
			if p := a.Pause(); p > time.Second {
				t.Errorf("%s: the first pause of the next outage is %v", name, p)
			}
		}
	})
}

// That a leaf should have been renewed is logged once, at the end of its life.
func TestAnOverdueLeafIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, log := attempts(t, time.Hour)
		if a.Overdue() {
			t.Error("a leaf in the middle of its life is overdue")
		}
		time.Sleep(55 * time.Minute)
		for range 3 {
			if !a.Overdue() {
				t.Error("a leaf at its end is not overdue")
			}
		}
		if text := log.String(); strings.Count(text, "Consul does not renew the certificate") != 1 {
			t.Errorf("it is logged as:\n%s", text)
		}
	})
}
