package consultest_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// checkOf is a check as the agent shows it.
func checkOf(t *testing.T, client *api.Client, id string) *api.AgentCheck {
	t.Helper()
	checks, err := client.Agent().Checks()
	must(t, err)
	if checks[id] == nil {
		t.Fatalf("there is no check %s among %v", id, checks)
	}
	return checks[id]
}

func TestATTLThatIsNotRenewedIsCritical(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{TTL: 30 * time.Second, Status: "passing"}}}))
		renew := func() { must(t, client.Agent().UpdateTTL("service:web", "still here", "pass")) }

		time.Sleep(29 * time.Second)
		renew()
		time.Sleep(29 * time.Second)
		if got := checkOf(t, client, "service:web"); got.Status != "passing" || got.Output != "still here" {
			t.Errorf("a renewed check is %+v", got)
		}
		_, meta := health(t, client, "web", true)
		done := ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
		if got := <-done; got.shown != "web=critical" || got.took != time.Second {
			t.Errorf("when the TTL ran out, a watcher saw %+v", got)
		}
		if got := checkOf(t, client, "service:web"); got.Output != "TTL expired (last output before timeout follows): still here" {
			t.Errorf("the output is %q", got.Output)
		}
		renew()
		if got, _ := health(t, client, "web", true); got != "web=passing" {
			t.Errorf("renewed after it ran out, got %q", got)
		}
	})
}

// Heartbeats that change only the output are kept from the catalog for minutes,
// so that they wake no query, but get there in the end.
func TestOutputAloneReachesTheCatalogLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{TTL: time.Hour, Status: "passing"}}}))
		_, meta := health(t, client, "web", true)
		done := ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 10 * time.Minute})
		must(t, client.Agent().UpdateTTL("service:web", "one", "pass"))
		must(t, client.Agent().UpdateTTL("service:web", "two", "pass"))
		got := <-done
		if got.took < 150*time.Second || got.took > 450*time.Second {
			t.Errorf("took %v, want half to one and a half of five minutes", got.took)
		}
		checks, _, err := client.Health().Checks("web", nil)
		must(t, err)
		if checks[0].Output != "two" {
			t.Errorf("the catalog shows %q", checks[0].Output)
		}
	})
}

func TestOnlyTTLChecksCanBeRenewed(t *testing.T) {
	s, client := newAgent(t, consultest.WithProbe(func(context.Context, consultest.Check) (string, string) { return "passing", "" }))
	must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{TCP: "x:1", Interval: time.Hour}}}))
	err := client.Agent().UpdateTTL("service:web", "", "pass")
	if err == nil || !strings.Contains(err.Error(), `CheckID "service:web" does not have associated TTL`) {
		t.Errorf("got %v", err)
	}
}

func TestProbesComeOncePerIntervalAfterARandomStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int32
		s, client := newAgent(t, consultest.WithProbe(func(_ context.Context, c consultest.Check) (string, string) {
			probes.Add(1)
			return consultest.HealthPassing, "saw " + c.GRPC
		}))
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{GRPC: "10.0.0.1:1/web", Interval: 10 * time.Second}}}))
		if got := checkOf(t, client, "service:web"); got.Status != "critical" || got.Type != "grpc" {
			t.Errorf("before the first probe the check is %+v", got)
		}
		time.Sleep(10 * time.Second)
		if got := checkOf(t, client, "service:web"); got.Status != "passing" || got.Output != "saw 10.0.0.1:1/web" {
			t.Errorf("after an interval the check is %+v", got)
		}
		time.Sleep(90 * time.Second)
		if got := probes.Load(); got != 10 {
			t.Errorf("%d probes in ten intervals", got)
		}
		must(t, s.Deregister("web"))
		time.Sleep(time.Minute)
		if got := probes.Load(); got != 10 {
			t.Errorf("%d probes after deregistration", got-10)
		}
	})
}

func TestAProbeEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t, consultest.WithProbe(func(ctx context.Context, _ consultest.Check) (string, string) {
			start := time.Now()
			<-ctx.Done()
			return consultest.HealthCritical, time.Since(start).String()
		}))
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{
			{TCP: "x:1", Interval: time.Second}, {TCP: "x:1", Interval: time.Second, Timeout: 3 * time.Second}}}))
		time.Sleep(12 * time.Second)
		for id, want := range map[string]string{"service:web:1": "10s", "service:web:2": "3s"} {
			if got := checkOf(t, client, id); got.Output != want {
				t.Errorf("%s ended after %s, want %s", id, got.Output, want)
			}
		}
	})
}

func TestThresholdsOfProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var status atomic.Value
		status.Store("passing")
		s, client := newAgent(t, consultest.WithProbe(func(context.Context, consultest.Check) (string, string) {
			return status.Load().(string), ""
		}))
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{TCP: "x:1", Interval: 10 * time.Second,
			SuccessBeforePassing: 2, FailuresBeforeWarning: 2, FailuresBeforeCritical: 3}}}))
		var seen []string
		look := func(n int) {
			for range n {
				time.Sleep(10 * time.Second)
				seen = append(seen, checkOf(t, client, "service:web").Status)
			}
		}
		look(1)
		status.Store("critical")
		look(3)
		status.Store("passing")
		look(2)
		if got, want := strings.Join(seen, " "), "passing passing warning critical critical passing"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestAServiceThatStaysCriticalIsDeregistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		reap := func(id string, after time.Duration) consultest.Service {
			return consultest.Service{ID: id, Name: "web", Checks: []consultest.Check{{TTL: time.Hour, Status: "passing", DeregisterCriticalServiceAfter: after}}}
		}
		must(t, s.Register(reap("fast", 10*time.Second))) // raised to a minute
		must(t, s.Register(reap("slow", 5*time.Minute)))
		must(t, s.Register(reap("well", 10*time.Second)))
		must(t, s.Register(reap("saved", 10*time.Second)))
		time.Sleep(7 * time.Second)
		for _, id := range []string{"fast", "slow", "saved"} {
			must(t, s.SetStatus(id, consultest.HealthCritical))
		}
		time.Sleep(59 * time.Second)
		must(t, s.SetStatus("saved", consultest.HealthPassing))
		if got, _ := health(t, client, "web", false); got != "fast=critical saved=passing slow=critical well=passing" {
			t.Errorf("after 59 seconds: %s", got)
		}
		time.Sleep(31 * time.Second)
		if got, _ := health(t, client, "web", false); got != "saved=passing slow=critical well=passing" {
			t.Errorf("after 90 seconds: %s", got)
		}
		time.Sleep(4 * time.Minute)
		if got, _ := health(t, client, "web", false); got != "saved=passing well=passing" {
			t.Errorf("after five and a half minutes: %s", got)
		}
	})
}

// Checks really look, unless WithProbe says otherwise.
func TestProbesOverTheNetwork(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server, reported := grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(server, reported)
	go server.Serve(lis) //nolint:errcheck // ends with Stop
	defer server.Stop()
	reported.SetServingStatus("bad", healthpb.HealthCheckResponse_NOT_SERVING)

	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, _ = w.Write([]byte(r.Method + " " + r.UserAgent()))
	}))
	defer web.Close()
	tlsWeb := httptest.NewTLSServer(http.NotFoundHandler())
	defer tlsWeb.Close()
	addr, free := lis.Addr().String(), "127.0.0.1:1"

	tests := map[string]struct {
		check          consultest.Check
		status, output string
	}{
		"grpc":         {consultest.Check{GRPC: addr}, "passing", "gRPC check " + addr + ": success"},
		"grpc service": {consultest.Check{GRPC: addr + "/bad"}, "critical", "gRPC " + addr + "/bad serving status: NOT_SERVING"},
		"grpc unknown": {consultest.Check{GRPC: addr + "/nope"}, "critical", "NotFound"},
		"grpc refused": {consultest.Check{GRPC: free}, "critical", "connection refused"},
		"grpc tls":     {consultest.Check{GRPC: addr, GRPCUseTLS: true, TLSSkipVerify: true}, "critical", "tls"},
		"http":         {consultest.Check{HTTP: web.URL}, "passing", "HTTP GET " + web.URL + ": 200 OK Output: GET Consul Health Check"},
		"http busy":    {consultest.Check{HTTP: web.URL + "/busy"}, "warning", "429"},
		"http tls":     {consultest.Check{HTTP: tlsWeb.URL, TLSSkipVerify: true}, "critical", "404 Not Found"},
		"http no tls":  {consultest.Check{HTTP: tlsWeb.URL}, "critical", "certificate"},
		"http refused": {consultest.Check{HTTP: "http://" + free}, "critical", "connection refused"},
		"tcp":          {consultest.Check{TCP: addr}, "passing", "TCP connect " + addr + ": Success"},
		"tcp tls":      {consultest.Check{TCP: tlsWeb.Listener.Addr().String(), TCPUseTLS: true, TLSSkipVerify: true}, "passing", "Success"},
		"tcp refused":  {consultest.Check{TCP: free}, "critical", "connection refused"},
	}
	s, client := newAgent(t)
	for name, test := range tests {
		test.check.CheckID, test.check.Interval, test.check.Timeout = name, time.Second, 5*time.Second
		must(t, s.Register(consultest.Service{Name: name, Checks: []consultest.Check{test.check}}))
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got *api.AgentCheck
			for range 3000 { // a busy machine may miss a probe
				got = checkOf(t, client, name)
				if got.Status == test.status && strings.Contains(got.Output, test.output) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("got %s %q, want %s %q", got.Status, got.Output, test.status, test.output)
		})
	}
}
