package consul_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// lines are those that hold part.
func (l *logged) lines(part string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

// A registration that Consul calls critical is a warning in its own server's log, with
// Consul's output, once; and so is its recovery.
//
// Case G7: A registration that Consul calls critical is a warning in its server's log, with
// Consul's output, once; so is its recovery.
func TestACriticalRegistrationIsLoggedWithConsulsOutput(t *testing.T) {
	var failing atomic.Bool
	probe := consultest.WithProbe(func(context.Context, consultest.Check) (string, string) {
		if failing.Load() {
			return consultest.HealthCritical, "x509: certificate signed by unknown authority"
		}
		return consultest.HealthPassing, ""
	})
	maintain := func(t *testing.T, client *api.Client, on bool) {
		var err error
		if on {
			err = client.Agent().EnableServiceMaintenance("catalog-1", "disks are changed")
		} else {
			err = client.Agent().DisableServiceMaintenance("catalog-1")
		}
		if err != nil {
			t.Error(err)
		}
	}
	for name, test := range map[string]struct {
		registration func(*catalog.Registration)
		set          func(t *testing.T, client *api.Client, critical bool)
		output       string
	}{
		"gRPC": {func(*catalog.Registration) {}, func(_ *testing.T, _ *api.Client, on bool) { failing.Store(on) },
			"gRPC health: x509: certificate signed by unknown authority"},
		"TTL": {func(r *catalog.Registration) {
			r.TTL = 3 * time.Second
			r.SelfCheck = func(context.Context) error {
				if failing.Load() {
					return errors.New("out of sugar")
				}
				return nil
			}
		}, func(_ *testing.T, _ *api.Client, on bool) { failing.Store(on) }, "TTL: out of sugar"},
		"maintenance": {func(*catalog.Registration) {}, maintain, "Service Maintenance Mode: disks are changed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New(probe)
				defer agent.Close()
				client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
				if err != nil {
					t.Fatal(err)
				}
				log := &logged{}
				d, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: slog.New(slog.NewTextHandler(log, nil))})
				if err != nil {
					t.Fatal(err)
				}
				r := instance("catalog-1", "10.0.0.1:80")
				test.registration(&r)
				lease := mustRegister(t, d, r)
				defer lease.Deregister(t.Context())
				for round := 1; round <= 2; round++ {
					test.set(t, client, true)
					time.Sleep(time.Minute)
					warned := log.lines("level=WARN")
					if len(warned) != round || !strings.Contains(warned[round-1], "reports this instance as critical") ||
						!strings.Contains(warned[round-1], test.output) || !strings.Contains(warned[round-1], "id=catalog-1") {
						t.Fatalf("round %d: the warnings are %q, want one more, with %q", round, warned, test.output)
					}
					test.set(t, client, false)
					time.Sleep(time.Minute)
					if well := log.lines("no longer reports this instance as critical"); len(well) != round {
						t.Errorf("round %d: the recovery is logged as %q, want one more", round, well)
					}
				}
			})
		})
	}
}
