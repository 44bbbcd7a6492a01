package consul_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/internal/sourcetest"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func newIdentity(t testing.TB, d *consul.Directory, service string) *consul.Identity {
	t.Helper()
	i, err := d.Identity(service)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

func next(t testing.TB, i *consul.Identity, last *identity.Snapshot) *identity.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	s, err := i.Next(ctx, last)
	if err != nil {
		_, why := i.Current()
		t.Fatal(err, why)
	}
	return s
}

func TestAnIdentityIsASource(t *testing.T) {
	for name, check := range sourcetest.Checks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New(consultest.WithLeafTTL(time.Hour))
				defer agent.Close()
				i, _ := identityAt(t, agent)
				lift := func() {}
				check(t, sourcetest.Source{
					SetAllowed: func(is bool) {
						if lift(); !is {
							lift = agent.Inject(consultest.Forbidden().On("/v1/agent/connect/"))
						}
					},
					Source: i, ID: next(t, i, nil).ID().String(), Target: "catalog",
					AddRoot: agent.RotateCA, DropOldRoots: agent.DropOldRoots, SetReachable: agent.SetReachable,
				})
			})
		})
	}
}

// An identity is two watches until it is closed, and none however often it is.
func TestAnIdentityThatIsClosedTwiceLeavesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		want := func(watches int) {
			t.Helper()
			if n := d.Stats()[0].Watches; n != watches {
				t.Errorf("%d watches, want %d", n, watches)
			}
		}
		i := newIdentity(t, d, "catalog")
		want(2)
		other := newIdentity(t, d, "prices")
		want(4)
		i.Close()
		i.Close()
		want(2)
		other.Close()
		want(0)
	})
}

// identityAt is an identity of catalog whose directory logs to the returned log.
func identityAt(t *testing.T, agent *consultest.Server) (*consul.Identity, *sourcetest.Log) {
	t.Helper()
	log := &sourcetest.Log{}
	d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: agent.Transport(), Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return newIdentity(t, d, "catalog"), log
}

// Leaves of Consul's shortest life are replaced well before their end, day after day.
//
// Case I2
func TestALeafIsRenewedWellBeforeItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New(consultest.WithLeafTTL(time.Hour))
		defer agent.Close()
		i, log := identityAt(t, agent)
		s := next(t, i, nil)
		if s.ID().Service != "catalog" || s.ID().Datacenter != "dc1" || len(s.Roots()) != 1 {
			t.Errorf("the identity is %v with %d roots", s.ID(), len(s.Roots()))
		}
		for range 24 {
			renewed := next(t, i, s)
			if left := time.Until(s.Leaf().NotAfter); left < 5*time.Minute {
				t.Errorf("a leaf is renewed %v before its end", left)
			}
			if renewed.Leaf().Equal(s.Leaf()) {
				t.Error("a snapshot has the leaf of the last one")
			}
			s = renewed
		}
		if log.String() != "" {
			t.Errorf("the log is not empty: %s", log)
		}
	})
}

// Roots change with both valid in between, and at no time is the leaf of a root that the
// process does not have.
//
// Case I3
func TestRootsOfConsulRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		i, _ := identityAt(t, agent)
		old := next(t, i, nil)
		agent.RotateCA()
		both := next(t, i, old)
		for both.Leaf().Equal(old.Leaf()) {
			both = next(t, i, both)
		}
		if len(both.Roots()) != 2 {
			t.Errorf("%d roots in between, want both", len(both.Roots()))
		}
		agent.DropOldRoots()
		if after := next(t, i, both); len(after.Roots()) != 1 || !after.Leaf().Equal(both.Leaf()) {
			t.Errorf("%d roots afterwards", len(after.Roots()))
		}
	})
}

// Case I4: Consul away: calls go on with the last leaf; at its end what was configured
// happens, loudly.
func TestTheLastCertificateStaysWhileConsulIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New(consultest.WithLeafTTL(time.Hour))
		defer agent.Close()
		i, log := identityAt(t, agent)
		first := next(t, i, nil)
		mtls, err := identity.New(i, identity.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		agent.SetReachable(false)
		time.Sleep(50 * time.Minute)
		if s, err := i.Current(); s != first || err != nil || mtls.Ready() != nil {
			t.Errorf("in the outage: %v, %v", err, mtls.Ready())
		}
		if text := log.String(); !strings.Contains(text, "the last certificate stays") || !strings.Contains(text, "valid_until=") {
			t.Errorf("the log does not say it: %s", text)
		}
		if n := strings.Count(log.String(), "\n"); n > 4 {
			t.Errorf("an outage writes %d lines: %s", n, log)
		}
		time.Sleep(10 * time.Minute)
		if err := mtls.Ready(); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("after the end: %v", err)
		}
		agent.SetReachable(true)
		if s := next(t, i, first); mtls.Ready() != nil || s.Leaf().Equal(first.Leaf()) {
			t.Errorf("after the outage: %v", mtls.Ready())
		}
		synctest.Wait() // the line follows the certificate
		if !strings.Contains(log.String(), "is read from Consul again") {
			t.Errorf("the log does not say that it is over: %s", log)
		}
	})
}

// An agent that is started with another CA, as one in dev mode, is followed.
func TestAnotherCAIsFollowedLoudly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		i, log := identityAt(t, agent)
		first := next(t, i, nil)
		agent.ReplaceCA()
		agent.Restart()
		start := time.Now()
		if s := next(t, i, first); s.ID().TrustDomain == first.ID().TrustDomain || time.Since(start) > time.Minute {
			t.Errorf("after %v the trust domain is %v", time.Since(start), s.ID().TrustDomain)
		}
		if !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("the log: %s", log)
		}
	})
}

// A token without service:write is named, and what it lacks.
func TestAnIdentityNamesTheRightThatATokenLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New(consultest.WithACL("root", "weak"))
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{Token: "weak"})
		i := newIdentity(t, d, "catalog")
		time.Sleep(time.Minute)
		if _, err := i.Current(); err == nil || !strings.Contains(err.Error(), `service:write on "catalog"`) {
			t.Errorf("the error is %v", err)
		}
		if _, err := d.Identity("a/b"); err == nil {
			t.Error("a name with a slash is accepted")
		}
	})
}

// Case I5: 500 processes renew at no more than 50 leaves a second (virtual time).
func TestProcessesDoNotRenewInStep(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		const processes = 500
		agent := consultest.New()
		defer agent.Close()
		var all []*consul.Identity
		for n := range processes {
			all = append(all, newIdentity(t, newDirectory(t, agent, consul.Config{Wait: 10 * time.Minute}), fmt.Sprintf("service-%d", n)))
			time.Sleep(100 * time.Millisecond) // processes are not all started in a second
		}
		for _, i := range all {
			next(t, i, nil)
		}
		for _, change := range []struct {
			name string
			do   func()
		}{
			{"new root", agent.RotateCA},
			{"agent restarted", agent.Restart},
			{"new root, and an outage on the way", func() {
				agent.RotateCA()
				agent.SetReachable(false)
				time.Sleep(time.Minute)
				agent.SetReachable(true)
			}},
		} {
			before := len(agent.Signed())
			change.do()
			time.Sleep(2 * time.Minute)
			signed := agent.Signed()[before:]
			if len(signed) < processes {
				t.Errorf("%s: %d leaves were signed, want %d", change.name, len(signed), processes)
			}
			if most := mostInASecond(signed); most > 50 {
				t.Errorf("%s: %d leaves in a second", change.name, most)
			}
		}
	})
}

// mostInASecond is the largest number of times within one second.
func mostInASecond(times []time.Time) (most int) {
	first := 0
	for last := range times {
		for times[last].Sub(times[first]) >= time.Second {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

func TestAnIdentityOfARealAgent(t *testing.T) {
	agent := agenttest.Start(t)
	d, err := consul.New(consul.Config{Address: agent.Address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	i := newIdentity(t, d, "catalog")
	first := next(t, i, nil)
	if id := first.ID(); id.Service != "catalog" || id.Namespace != "default" || id.Datacenter != "dc1" {
		t.Errorf("the id is %v", id)
	}
	if life := time.Until(first.Leaf().NotAfter); life < 70*time.Hour || life > 73*time.Hour {
		t.Errorf("the leaf is good for %v", life)
	}
	// An agent in dev mode has forgotten its CA.
	if err := agent.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := next(t, i, first); s.ID().TrustDomain == first.ID().TrustDomain {
		t.Error("the trust domain is that of the old CA")
	}
}
