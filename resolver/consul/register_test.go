package consul_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// journal is a log that tests wait on.
type journal struct {
	slog.Handler
	lines chan string
}

func newJournal() journal {
	return journal{slog.NewTextHandler(io.Discard, nil), make(chan string, 100)}
}

func (j journal) WithAttrs([]slog.Attr) slog.Handler { return j }

func (j journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	select {
	case j.lines <- line:
	default:
	}
	return nil
}

// await waits for a line with text in it.
func (j journal) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for others := []string(nil); ; {
		select {
		case line := <-j.lines:
			if strings.Contains(line, text) {
				return
			}
			others = append(others, line)
		case <-deadline:
			t.Fatalf("nothing was logged with %q in it, but %q", text, others)
		}
	}
}

// apiOf is Consul's own client, to change behind the back of a lease.
func apiOf(t *testing.T, address string, transport http.RoundTripper) *api.Client {
	t.Helper()
	config := api.DefaultConfig()
	config.Address = address
	if transport != nil {
		config.HttpClient = &http.Client{Transport: transport}
	}
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(config.HttpClient.CloseIdleConnections)
	return client
}

// G1, for more than a restart: what is changed behind the back of a service comes
// back, and what an operator does stays.
//
// Case G1
func TestDriftIsRegisteredAgain(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		log := newJournal()
		d, err := consul.New(consul.Config{Address: a.address, Token: a.service, Heartbeat: time.Second, Logger: slog.New(log)})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r := instance("catalog-1", serveHealth(t))
		r.Tags, r.Metadata, r.Weight = []string{"v2"}, map[string]string{"version": "2"}, 7
		r.Region, r.Zone, r.Scheme = "eu", "eu-a", "grpc"
		r.ConnectNative = true
		mustRegister(t, d, r)
		operator := a.operator(t).Agent()
		if err := operator.EnableServiceMaintenance("catalog-1", "looking into it"); err != nil {
			t.Fatal(err)
		}
		host, _, _ := net.SplitHostPort(r.Address)
		port := int(portOf(t, r.Address))
		for what, change := range map[string]func(*api.AgentServiceRegistration){
			"the address":          func(s *api.AgentServiceRegistration) { s.Port = 1 },
			"the tags":             func(s *api.AgentServiceRegistration) { s.Tags = nil },
			"the metadata":         func(s *api.AgentServiceRegistration) { s.Meta["version"] = "1" },
			"the weights":          func(s *api.AgentServiceRegistration) { s.Weights.Passing = 1 },
			"the locality":         func(s *api.AgentServiceRegistration) { s.Locality.Zone = "eu-b" },
			"the name":             func(s *api.AgentServiceRegistration) { s.Name = "other" },
			"the tagged addresses": func(s *api.AgentServiceRegistration) { s.TaggedAddresses = nil },
			"Connect":              func(s *api.AgentServiceRegistration) { s.Connect = nil },
		} {
			s := &api.AgentServiceRegistration{
				ID: "catalog-1", Name: "catalog", Address: host, Port: port, Tags: []string{"v2"},
				Meta: map[string]string{"version": "2"}, Weights: &api.AgentWeights{Passing: 7, Warning: 1},
				Locality:        &api.Locality{Region: "eu", Zone: "eu-a"},
				Connect:         &api.AgentServiceConnect{Native: true},
				TaggedAddresses: map[string]api.ServiceAddress{"grpc": {Address: "grpc://" + r.Address, Port: port}},
			}
			change(s)
			if err := operator.ServiceRegister(s); err != nil {
				t.Fatal(err)
			}
			if what == "the name" && a.service != "" {
				log.await(t, `'service:read' on "other"`) // the token has no right to another name
				s.Name = "catalog"
				if err := operator.ServiceRegister(s); err != nil {
					t.Fatal(err)
				}
				log.await(t, "the registration is confirmed again")
				continue
			}
			log.await(t, "changed="+what)
		}
		if err := operator.CheckDeregister("service:catalog-1"); err != nil {
			t.Fatal(err)
		}
		log.await(t, "changed=the check")
		_, info, err := operator.AgentHealthServiceByID("catalog-1")
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Service; s.Port != port || s.Meta["version"] != "2" || s.Weights.Passing != 7 || len(s.Tags) != 1 || s.Locality.Zone != "eu-a" || s.Service != "catalog" || s.TaggedAddresses["grpc"].Address != "grpc://"+r.Address {
			t.Errorf("the agent has %+v", s)
		}
		if len(info.Checks) != 2 || info.AggregatedStatus != api.HealthMaint {
			t.Errorf("the checks are %+v, want ours and the operator's", info.Checks)
		}
	})
}

func portOf(t *testing.T, address string) uint16 {
	t.Helper()
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(tcp.Port)
}

// A lease that finds nothing amiss writes nothing, not even over a critical check:
// that would take the service in and out of the rotation.
//
// Case G1
func TestOnlyDriftIsRegisteredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		agent := consultest.New(consultest.WithProbe(func(context.Context, consultest.Check) (string, string) {
			if failing.Load() {
				return consultest.HealthCritical, "out of sugar"
			}
			return consultest.HealthPassing, ""
		}))
		defer agent.Close()
		var writes atomic.Int32
		agent.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				writes.Add(1)
			}
			return false
		})
		d := newDirectory(t, agent, consul.Config{})
		lease := mustRegister(t, d, instance("catalog-1", "10.0.0.1:80"))
		time.Sleep(time.Hour)
		failing.Store(true)
		time.Sleep(time.Hour)
		if n := writes.Load(); n != 1 {
			t.Errorf("%d writes in two hours without drift, want the registration alone", n)
		}
		r := watch(d, catalog.Query{Service: "catalog"})
		defer r.stop()
		synctest.Wait()
		if s, _ := r.last(); len(s.Instances) != 0 {
			t.Errorf("a critical service is reported as passing: %v", addressesOf(s))
		}
		agent.Restart()
		time.Sleep(6*time.Second + time.Millisecond)
		if s := d.Stats()[0]; s.Registrations != 1 || s.Reregistrations != 1 {
			t.Errorf("after a restart of the agent the figures are %+v, want one of each", s)
		}
		if err := lease.Deregister(t.Context()); err != nil || d.Stats()[0].Registrations != 0 {
			t.Errorf("after leaving the figures are %+v, %v", d.Stats(), err)
		}
	})
}

// What is registered again while it is failing stays critical.
//
// Case G1
func TestDriftDoesNotHealTheSick(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"gRPC": 0, "TTL": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var failing atomic.Bool
				agent := consultest.New(consultest.WithProbe(func(context.Context, consultest.Check) (string, string) {
					if failing.Load() {
						return consultest.HealthCritical, "out of sugar"
					}
					return consultest.HealthPassing, ""
				}))
				defer agent.Close()
				d := newDirectory(t, agent, consul.Config{})
				r := instance("catalog-1", "10.0.0.1:80")
				r.TTL, r.Tags = ttl, []string{"v2"}
				r.SelfCheck = func(context.Context) error {
					if failing.Load() {
						return errors.New("out of sugar")
					}
					return nil
				}
				mustRegister(t, d, r)
				failing.Store(true)
				time.Sleep(time.Minute)
				w := watch(d, catalog.Query{Service: "catalog"})
				defer w.stop()
				synctest.Wait()
				_, before := w.last()
				register(t, agent, "catalog-1", 80) // without the tag
				time.Sleep(time.Minute)
				entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog", Tags: []string{"v2"}})
				if err != nil || len(entries) != 1 || entries[0].Status != catalog.Critical {
					t.Errorf("the entries are %+v, %v; want a critical one", entries, err)
				}
				for _, s := range w.snapshots[before:] {
					if len(s.Instances) > 0 {
						t.Error("the failing service was reported as passing for a while")
					}
				}
			})
		})
	}
}

// Two that are given one id fight over it; it is logged once.
func TestAFightOverAnIDIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New(passingProbe())
		defer agent.Close()
		log := newJournal()
		d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: agent.Transport(), Logger: slog.New(log)})
		if err != nil {
			t.Fatal(err)
		}
		mustRegister(t, d, instance("catalog-1", "10.0.0.1:80"))
		mustRegister(t, newDirectory(t, agent, consul.Config{Heartbeat: time.Second}), instance("catalog-1", "10.0.0.2:80"))
		time.Sleep(10 * time.Minute)
		if n := len(log.lines); n != 1 {
			t.Errorf("%d lines in ten minutes, want one", n)
		}
	})
}

func passingProbe() consultest.Option {
	return consultest.WithProbe(func(context.Context, consultest.Check) (string, string) { return consultest.HealthPassing, "" })
}

// A TTL is renewed three times in each by what the self-check finds.
func TestTTLReportsWhatTheSelfCheckFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		var failing atomic.Bool
		var checks atomic.Int32
		r := instance("catalog-1", "10.0.0.1:80")
		r.TTL = 30 * time.Second
		r.SelfCheck = func(context.Context) error {
			if checks.Add(1); failing.Load() {
				return errors.New("out of\nsugar")
			}
			return nil
		}
		mustRegister(t, d, r)
		want := func(status catalog.Status, output string) {
			t.Helper()
			synctest.Wait()
			if got := ownCheck(t, d); got.Status != status || !strings.Contains(got.Output, output) {
				t.Errorf("the check is %+v, want %v with %q", got, status, output)
			}
		}
		want(catalog.Passing, "")
		before := checks.Load()
		time.Sleep(10*30*time.Second + time.Second)
		if n := checks.Load() - before; n != 30 {
			t.Errorf("%d self-checks in ten TTLs, want 30", n)
		}
		want(catalog.Passing, "")
		failing.Store(true)
		time.Sleep(10 * time.Second)
		want(catalog.Critical, "out of sugar")
		failing.Store(false)
		time.Sleep(10 * time.Second)
		want(catalog.Passing, "")

		agent.SetReachable(false)
		time.Sleep(time.Minute)
		agent.SetReachable(true)
		want(catalog.Critical, "TTL expired")
		time.Sleep(10 * time.Second)
		want(catalog.Passing, "")

		agent.Restart()
		time.Sleep(6*time.Second + time.Millisecond)
		want(catalog.Passing, "")
		time.Sleep(time.Minute)
		want(catalog.Passing, "")
	})
}

// A self-check that hangs is a failed one, and does not let the TTL run out.
func TestTTLDoesNotWaitForASelfCheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		var hangs atomic.Bool
		r := instance("catalog-1", "10.0.0.1:80")
		r.TTL = 30 * time.Second
		r.SelfCheck = func(ctx context.Context) error {
			if !hangs.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		mustRegister(t, d, r)
		hangs.Store(true)
		time.Sleep(20*time.Second + time.Millisecond)
		if got := ownCheck(t, d); got.Status != catalog.Critical || !strings.Contains(got.Output, "deadline") {
			t.Errorf("the check is %+v, want what the self-check has answered", got)
		}
		time.Sleep(time.Hour)
		if got := ownCheck(t, d); strings.Contains(got.Output, "expired") {
			t.Errorf("the check is %+v", got)
		}
	})
}

// ownCheck is the only check of the service itself.
func ownCheck(t *testing.T, d *consul.Directory) consul.Check {
	t.Helper()
	entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
	if err != nil || len(entries) != 1 {
		t.Fatalf("entries are %+v, %v; want one", entries, err)
	}
	for _, c := range entries[0].Checks {
		if c.Name == "gRPC health" || c.Name == "TTL" {
			return c
		}
	}
	t.Fatalf("no check of ours among %+v", entries[0].Checks)
	return consul.Check{}
}

func TestTTLAgainstEveryAgent(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		// A query that reaches the agent just after its restart waits for an index of before.
		d := dial(t, a, consul.Config{Heartbeat: time.Second, Wait: 2 * time.Second})
		var failing atomic.Bool
		r := instance("catalog-1", "10.0.0.1:80") // Consul never calls it
		r.TTL = 3 * time.Second
		r.SelfCheck = func(context.Context) error {
			if failing.Load() {
				return errors.New("out of sugar")
			}
			return nil
		}
		mustRegister(t, d, r)
		w := watch(d, catalog.Query{Service: "catalog"})
		defer w.stop()
		w.await(t, "10.0.0.1:80")
		failing.Store(true)
		w.await(t)
		if got := ownCheck(t, d); got.Status != catalog.Critical || got.Output != "out of sugar" {
			t.Errorf("the check is %+v", got)
		}
		failing.Store(false)
		w.await(t, "10.0.0.1:80")
		_, before := w.last()
		a.restart(t)
		w.awaitNews(t, before)
		w.await(t, "10.0.0.1:80")
	})
}

func TestTheWatchReturnsTheLocality(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		r := instance("catalog-1", serveHealth(t))
		r.Region, r.Zone = "eu-west-1", "eu-west-1a"
		mustRegister(t, d, r)
		w := watch(d, catalog.Query{Service: "catalog"})
		defer w.stop()
		if got := w.await(t, r.Address).Instances[0]; got.Region != r.Region || got.Zone != r.Zone {
			t.Errorf("the watch reports %q and %q", got.Region, got.Zone)
		}
	})
}

// Case G3
func TestErrorsOfConsulsLimitsNameTheField(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	agent.SetReachable(false)
	d := newDirectory(t, agent, consul.Config{})
	many := map[string]string{}
	for i := range 65 {
		many[strings.Repeat("k", i+1)] = ""
	}
	for name, test := range map[string]struct {
		change func(*catalog.Registration)
		want   string
	}{
		"short TTL":        {func(r *catalog.Registration) { r.TTL = time.Second }, "TTL 1s"},
		"negative TTL":     {func(r *catalog.Registration) { r.TTL = -time.Second }, "TTL -1s"},
		"zone alone":       {func(r *catalog.Registration) { r.Zone = "a" }, `Zone "a" without a Region`},
		"slow check":       {func(r *catalog.Registration) { r.CheckTimeout = 6 * time.Second }, "CheckTimeout 6s"},
		"negative timeout": {func(r *catalog.Registration) { r.CheckTimeout = -1 }, "CheckTimeout -1ns"},
		"any address":      {func(r *catalog.Registration) { r.Address = "0.0.0.0:80" }, `Address "0.0.0.0:80"`},
		"empty tag":        {func(r *catalog.Registration) { r.Tags = []string{"a", ""} }, "Tags"},
		"heavy":            {func(r *catalog.Registration) { r.Weight = 65536 }, "Weight 65536"},
		"heavy warning":    {func(r *catalog.Registration) { r.WarningWeight = new(uint32(70000)) }, "Weight 70000"},
		"much metadata":    {func(r *catalog.Registration) { r.Metadata = many }, "65 keys"},
		"metadata key":     {func(r *catalog.Registration) { r.Metadata = map[string]string{"a.b": ""} }, `"a.b"`},
		"empty key":        {func(r *catalog.Registration) { r.Metadata = map[string]string{"": ""} }, `key ""`},
		"long key":         {func(r *catalog.Registration) { r.Metadata = map[string]string{strings.Repeat("k", 129): ""} }, "1 to 128"},
		"reserved key":     {func(r *catalog.Registration) { r.Metadata = map[string]string{"consul-x": ""} }, `"consul-x"`},
		"long value":       {func(r *catalog.Registration) { r.Metadata = map[string]string{"a": strings.Repeat("v", 513)} }, "513 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := instance("catalog-1", "10.0.0.1:80")
			test.change(&r)
			if _, err := d.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one that says %q", err, test.want)
			}
		})
	}
}

// What these limits let through, Consul takes.
//
// Case G3
func TestTheLimitsAreConsuls(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		r := instance("catalog-1", serveHealth(t))
		r.Weight, r.WarningWeight, r.CheckInterval, r.DeregisterAfter = 65535, new(uint32(65535)), time.Second, time.Minute
		r.Metadata = map[string]string{}
		for i := range 64 {
			r.Metadata[strings.Repeat("k", 128-i)] = strings.Repeat("v", 512)
		}
		mustRegister(t, d, r)
	})
}

// An answer that is lost on its way leaves nothing registered that nobody keeps.
func TestAFailedRegistrationIsWithdrawn(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/agent/service/register" {
			return false
		}
		agent.ServeHTTP(discard{http.Header{}}, r)
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	d := newDirectory(t, agent, consul.Config{})
	if _, err := d.Register(t.Context(), instance("catalog-1", "10.0.0.1:80")); err == nil {
		t.Fatal("a lost answer is taken for a registration")
	}
	if entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"}); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %+v, %v", entries, err)
	}
}

// discard is a response that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// mortal is the network of a process that can die.
type mortal struct {
	http.RoundTripper
	dead *atomic.Bool
}

func (m mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.dead.Load() {
		return nil, errors.New("the process is dead")
	}
	return m.RoundTripper.RoundTrip(r)
}

// G4: a crash without deregistration: out of Consul after the check's time. Its
// checks time out, so it is out of the passing list after an interval and a
// timeout; the reaper looks every 30 s.
//
// Case G4
func TestACrashLeavesConsulAfterTheChecksTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		agent := consultest.New(consultest.WithProbe(func(ctx context.Context, _ consultest.Check) (string, string) {
			if !dead.Load() {
				return consultest.HealthPassing, ""
			}
			<-ctx.Done()
			return consultest.HealthCritical, "timeout"
		}))
		defer agent.Close()
		process, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: mortal{agent.Transport(), &dead}, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		r := instance("catalog-1", "10.0.0.1:80")
		r.DeregisterAfter = time.Minute
		mustRegister(t, process, r)
		d := newDirectory(t, agent, consul.Config{})
		w := watch(d, catalog.Query{Service: "catalog"})
		defer w.stop()
		time.Sleep(time.Minute)
		w.await(t, r.Address)

		dead.Store(true)
		time.Sleep(7*time.Second + time.Millisecond)
		synctest.Wait()
		if s, _ := w.last(); len(s.Instances) != 0 {
			t.Error("the dead are passing after an interval and a timeout")
		}
		if entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"}); err != nil || len(entries) != 1 {
			t.Errorf("the entries are %+v, %v; want the critical one", entries, err)
		}
		time.Sleep(time.Minute + 30*time.Second)
		if entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"}); err != nil || len(entries) != 0 {
			t.Errorf("still registered: %+v, %v", entries, err)
		}
	})
}

// G4, with real checks: a gRPC server that dies is reported as gone.
//
// Case G4
func TestADeadServerIsReportedAsGone(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		address, crash := serveHealthUntil(t)
		r := instance("catalog-1", address)
		r.CheckInterval = time.Second
		mustRegister(t, d, r)
		w := watch(d, catalog.Query{Service: "catalog"})
		defer w.stop()
		w.await(t, r.Address)
		crash()
		w.await(t)
	})
}
