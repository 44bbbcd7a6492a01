package consul_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Case metrics
func TestStatsShowWhetherAServiceIsRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		stats := func() consul.ServiceStats {
			t.Helper()
			services := d.Stats()[0].Services
			if len(services) != 1 || services[0].Service != "catalog" {
				t.Fatalf("it reports %+v, want the catalog", services)
			}
			return services[0]
		}
		r := catalog.Registration{Instance: catalog.Instance{ID: "catalog-1", Service: "catalog", Address: "10.0.0.1:80"}}
		r.SelfCheck = func(context.Context) error { return errors.New("not yet") }
		if _, err := d.Register(t.Context(), r); err == nil {
			t.Fatal("it has registered what cannot be reached")
		}
		if s := stats(); s.Registered || s.Attempts != 1 || s.Failures != 1 || !s.ConfirmedAt.IsZero() {
			t.Errorf("after a failure: %+v", s)
		}
		r.SelfCheck = nil
		lease, err := d.Register(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if s := stats(); !s.Registered || s.Attempts != 2 || s.Failures != 1 || !s.ConfirmedAt.Equal(time.Now()) {
			t.Errorf("when it is registered: %+v", s)
		}
		agent.SetReachable(false)
		since := time.Now()
		time.Sleep(time.Minute)
		if s := stats(); s.Registered || s.Failures < 8 || s.ConfirmedAt.After(since) {
			t.Errorf("after a minute without an agent: %+v", s)
		}
		agent.SetReachable(true)
		time.Sleep(10 * time.Second)
		if s := stats(); !s.Registered || time.Since(s.ConfirmedAt) > 6*time.Second {
			t.Errorf("when the agent is back: %+v", s)
		}
		second := r
		second.ID = "catalog-2"
		other, err := d.Register(t.Context(), second)
		if err != nil {
			t.Fatal(err)
		}
		_ = other.Deregister(t.Context())
		if s := stats(); !s.Registered {
			t.Errorf("without the second: %+v", s)
		}
		_ = lease.Deregister(t.Context())
		if services := d.Stats()[0].Services; len(services) != 0 {
			t.Errorf("when it has left: %+v", services)
		}
	})
}
