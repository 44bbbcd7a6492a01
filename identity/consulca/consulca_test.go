package consulca_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/consulca"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sourceAt is a source of catalog that logs to the returned log.
func sourceAt(t testing.TB, conn grpc.ClientConnInterface, change ...func(*consulca.Config)) (*consulca.Source, *sourcetest.Log) {
	t.Helper()
	log := &sourcetest.Log{}
	config := consulca.Config{Service: "catalog", Datacenter: "dc1", Logger: slog.New(slog.NewTextHandler(log, nil))}
	for _, c := range change {
		c(&config)
	}
	s, err := consulca.New(conn, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, log
}

func next(t testing.TB, s *consulca.Source, last *identity.Snapshot) *identity.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	defer cancel()
	n, err := s.Next(ctx, last)
	if err != nil {
		_, why := s.Current()
		t.Fatal(err, why)
	}
	return n
}

func TestASourceOfConsulsServers(t *testing.T) {
	for name, check := range sourcetest.Checks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newServer(t)
				s, _ := sourceAt(t, server.serve())
				check(t, sourcetest.Source{
					Source: s, ID: "spiffe://one.consul/ns/default/dc/dc1/svc/catalog", Target: "catalog",
					AddRoot: server.addRoot, DropOldRoots: server.dropOldRoots, SetReachable: server.setReachable, SetAllowed: server.setAllowed,
				})
			})
		})
	}
}

// Every leaf has a key of its own, and is renewed at 60 % to 90 % of its life.
//
// Case I2
// What a runtime exports is that of an agent's source: which service, until when, and what was
// received and has failed, from the start on.
func TestASourceReportsWhatAnAgentsDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := newServer(t)
		servers.setReachable(false)
		s, _ := sourceAt(t, servers.serve())
		mtls, err := identity.New(s)
		if err != nil {
			t.Fatal(err)
		}
		defer mtls.Close()
		time.Sleep(time.Minute)
		if stats := mtls.Stats(); stats.Service != "catalog" || stats.Source.Failed == 0 || stats.Source.Published != 0 || stats.Error == "" {
			t.Errorf("before the first certificate: %+v", stats)
		}
		servers.setReachable(true)
		first := next(t, s, nil)
		if stats := mtls.Stats(); stats.Service != "catalog" || stats.ID != first.ID().String() || stats.Source.Published != 1 || !stats.ValidUntil.Equal(first.Leaf().NotAfter) {
			t.Errorf("with one: %+v", stats)
		}
	})
}

func TestEachLeafHasItsOwnKeyAndIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t)
		s, log := sourceAt(t, server.serve())
		last := next(t, s, nil)
		for range 24 {
			renewed := next(t, s, last)
			if left := time.Until(last.Leaf().NotAfter); left < leafLife/10-time.Minute || left > leafLife*4/10+time.Minute {
				t.Errorf("a leaf is renewed %v before its end", left)
			}
			last = renewed
		}
		server.mu.Lock()
		defer server.mu.Unlock()
		distinct := map[string]bool{}
		for _, key := range server.keys {
			distinct[fmt.Sprint(key)] = true
		}
		if len(distinct) != 25 {
			t.Errorf("%d keys for 25 leaves", len(distinct))
		}
		if log.String() != "" {
			t.Errorf("the log is not empty: %s", log)
		}
	})
}

// Case I4
func TestTheLastLeafStaysWhileNoServerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t)
		s, log := sourceAt(t, server.serve())
		first := next(t, s, nil)
		server.setReachable(false)
		time.Sleep(leafLife - time.Minute)
		if now, err := s.Current(); now != first || err != nil {
			t.Errorf("in the outage: %v", err)
		}
		text := log.String()
		if !strings.Contains(text, "the last certificate stays") || !strings.Contains(text, "does not renew the certificate") {
			t.Errorf("the log does not say it: %s", text)
		}
		if n := strings.Count(text, "\n"); n > 4 {
			t.Errorf("an outage writes %d lines: %s", n, text)
		}
		server.setReachable(true)
		next(t, s, first)
		synctest.Wait()
		if !strings.Contains(log.String(), "from Consul again") {
			t.Errorf("the log does not say that it is over: %s", log)
		}
	})
}

// Servers with another CA, as after a new start in dev mode, are followed.
func TestAnotherCAIsFollowedLoudly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t)
		s, log := sourceAt(t, server.serve())
		first := next(t, s, nil)
		server.addRoot()
		server.change(func() { server.trustDomain, server.roots = "two.consul", server.roots[1:] })
		began := time.Now()
		var last *identity.Snapshot
		for last = first; last.ID().TrustDomain != "two.consul"; last = next(t, s, last) {
		}
		if took := time.Since(began); took > time.Minute { // virtual
			t.Errorf("it took %v", took)
		}
		if !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("the log: %s", log)
		}
	})
}

// Case I5
func TestSourcesDoNotRenewInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const processes = 500
		server := newServer(t)
		conn := server.serve()
		var all []*consulca.Source
		for n := range processes {
			s, _ := sourceAt(t, conn, func(c *consulca.Config) { c.Service = fmt.Sprintf("service-%d", n) })
			all = append(all, s)
			time.Sleep(100 * time.Millisecond) // processes are not all started in a second
		}
		for _, s := range all {
			next(t, s, nil)
		}
		before := len(server.signedAt())
		server.addRoot()
		time.Sleep(time.Minute)
		signed := server.signedAt()[before:]
		if len(signed) < processes {
			t.Errorf("%d leaves were signed, want %d", len(signed), processes)
		}
		first := 0
		for last := range signed {
			for signed[last].Sub(signed[first]) >= time.Second {
				first++
			}
			if n := last - first + 1; n > 50 {
				t.Fatalf("%d leaves in a second", n)
			}
		}
	})
}

// A token that lacks its right is named with the fix, and one that is replaced is used.
func TestTheTokenIsReadForEachRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t)
		server.token = "right-secret"
		var mu sync.Mutex
		token := "wrong-secret"
		s, log := sourceAt(t, server.serve(), func(c *consulca.Config) {
			c.Token = func() string { mu.Lock(); defer mu.Unlock(); return token }
		})
		time.Sleep(time.Minute)
		if _, err := s.Current(); err == nil || !strings.Contains(err.Error(), "give Config.Token one with service:write") {
			t.Errorf("the error is %v", err)
		}
		mu.Lock()
		token = "right-secret"
		mu.Unlock()
		next(t, s, nil)
		if text := log.String(); strings.Contains(text, "-secret") {
			t.Errorf("the log has a token: %s", text)
		}
	})
}

// A server that refuses for a while, as when its limit of leaves a second is reached, is asked again.
func TestALimitOfTheServersIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t)
		server.failure = status.Error(codes.ResourceExhausted, "limit reached, try again later")
		s, _ := sourceAt(t, server.serve())
		time.Sleep(time.Minute)
		if _, err := s.Current(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("the error is %v", err)
		}
		server.change(func() { server.failure = nil })
		next(t, s, nil)
	})
}

func TestAConfigIsCheckedWhenBuilt(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for field, config := range map[string]consulca.Config{
		"Service":    {Datacenter: "dc1"},
		"Datacenter": {Service: "catalog"},
		"Namespace":  {Service: "catalog", Datacenter: "dc1", Namespace: "a/b"},
		"Partition":  {Service: "catalog", Datacenter: "dc1", Partition: "a b"},
	} {
		if _, err := consulca.New(conn, config); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := consulca.New(nil, consulca.Config{Service: "catalog", Datacenter: "dc1"}); err == nil {
		t.Error("a nil channel is accepted")
	}
}

// A real server signs, and one that was started with another CA is followed.
func TestARealServerSigns(t *testing.T) {
	agent := agenttest.Start(t)
	conn, err := grpc.NewClient("passthrough:///"+agent.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, _ := sourceAt(t, conn)
	defer s.Close()
	first := next(t, s, nil)
	if id := first.ID(); id.Service != "catalog" || id.Datacenter != "dc1" || !strings.HasSuffix(id.TrustDomain, ".consul") {
		t.Errorf("the id is %v", id)
	}
	if err := agent.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for last := first; last.ID().TrustDomain == first.ID().TrustDomain; last = next(t, s, last) {
	}
}

func Example() {
	servers, err := grpc.NewClient("dns:///consul-server:8502", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Close()
	source, err := consulca.New(servers, consulca.Config{Service: "storefront", Datacenter: "dc1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer source.Close()
	mtls, err := identity.New(source)
	fmt.Println(mtls.Info().SecurityProtocol, err)
	// Output: tls <nil>
}
