package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// openHealth is a server whose health service reports status.
func openHealth(t *testing.T, status healthv1.HealthCheckResponse_ServingStatus, settings *tls.Config) (address string) {
	t.Helper()
	creds := insecure.NewCredentials()
	if settings != nil {
		creds = credentials.NewTLS(settings)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	own := health.NewServer()
	own.SetServingStatus("", status)
	healthv1.RegisterHealthServer(server, own)
	return serveGRPC(t, server)
}

func serveGRPC(t *testing.T, server *grpc.Server) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// enlist registers an instance with a check in the state status; none if that is "".
func enlist(t *testing.T, agent *consultest.Server, service, id, address, status string) {
	t.Helper()
	s := consultest.Service{ID: id, Name: service}
	if address != "" {
		s.Address, s.Port = splitAddress(t, address)
	}
	if status != "" {
		s.Checks = []consultest.Check{{Name: "lease", TTL: time.Hour, Status: status}}
	}
	if err := agent.Register(s); err != nil {
		t.Fatal(err)
	}
}

func splitAddress(t *testing.T, address string) (host string, port int) {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	return host, port
}

func TestCheckOfAMeshThatIsWell(t *testing.T) {
	agent := openAgent(t)
	openShop(t, "catalog", 2)
	address := openHealth(t, healthv1.HealthCheckResponse_SERVING, nil)
	enlist(t, agent, "inventory", "inventory-1", address, "passing")
	enlist(t, agent, "prices", "prices-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, nil), "passing")
	r := runTool(t, "check")
	r.want(t, 0, "10 passed, 0 warnings, 0 failed", "")
	for _, line := range []string{
		"consul\n  ✓ consul at " + os.Getenv("CONSUL_HTTP_ADDR") + ", a stand-in for Consul, answers in ",
		"  ✓ the leader is 127.0.0.1:8300\n", "  ✓ no token is needed", "  ✓ datacenter dc1, node consultest (127.0.0.1)\n", "  ✓ services: 3\n",
		"clock\n  ✓ our clock is within 1s", "service catalog\n  ✓ catalog-127-0-0-1-", "service inventory\n  ✓ inventory-1  " + address + "  SERVING in ",
	} {
		if !strings.Contains(r.out, line) {
			t.Errorf("stdout %s, want %q in it", r.out, line)
		}
	}
	if strings.Contains(r.out, "✗") || r.err != "" {
		t.Errorf("stdout %s, stderr %s", r.out, r.err)
	}
	runTool(t, "check", "prices", "-o", "json").want(t, 0, `"name": "health"`, "")
}

func TestCheckReportsWhatIsWrongAndTheFix(t *testing.T) {
	_, _, pair := selfSigned(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	well := openHealth(t, healthv1.HealthCheckResponse_SERVING, nil)
	for name, test := range map[string]struct {
		address, status string
		code            int
		out             []string
	}{
		"dead": {closedPort(t), "passing", 1, []string{"✗ x-1", "refuses connections, Consul says passing\n",
			"is the process running, and listening there? If it is gone for good: `consul services deregister -id=x-1` on node consultest\n"}},
		"dead, as Consul knows":      {closedPort(t), "critical", 1, []string{"✗ x-1", "refuses connections, Consul says critical (lease)\n"}},
		"stalled":                    {silent.Addr().String(), "passing", 1, []string{"accepts connections but does not answer in time", "is the process stalled"}},
		"not serving":                {openHealth(t, healthv1.HealthCheckResponse_NOT_SERVING, nil), "passing", 1, []string{"reports NOT_SERVING, Consul says passing", "clients still call it: make its check in Consul call grpc.health.v1"}},
		"not serving, as it knows":   {openHealth(t, healthv1.HealthCheckResponse_NOT_SERVING, nil), "critical", 1, []string{"✗ x-1", "reports NOT_SERVING, Consul says critical", "see its log"}},
		"well, and Consul doubts it": {well, "critical", 1, []string{"SERVING in ", ", Consul says critical (lease)\n", "clients do not call it while enough others are healthy: can the agent on node consultest reach"}},
		"well, and Consul warns":     {well, "warning", 0, []string{"! x-1", ", Consul says warning (lease)\n", "unless they are built WithWarningInstances"}},
		"without a check":            {well, "", 0, []string{"✓ x-1", "! x-1", "has no check in Consul: it is never taken out of rotation\n", "register it with a gRPC check"}},
		"without an address":         {"", "passing", 1, []string{"✗ x-1  -  has no address that can be called", "-id=x-1"}},
		"TLS":                        {openHealth(t, healthv1.HealthCheckResponse_SERVING, &tls.Config{Certificates: []tls.Certificate{pair}}), "passing", 1, []string{"speaks TLS, but was called in plaintext, Consul says passing\n", "add --tls, or --cacert"}},
		"HTTP":                       {web.Listener.Addr().String(), "passing", 0, []string{"! x-1", "speaks HTTP/1, not gRPC"}},
		"without health":             {serveGRPC(t, grpc.NewServer()), "passing", 0, []string{"! x-1", "answers, but has no health service", "grpc/health"}},
		"not for us": {serveGRPC(t, grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			return status.Error(codes.PermissionDenied, "no")
		}))), "passing", 0, []string{"! x-1", "answers, but does not report its health"}},
		"no such host": {"nowhere.invalid:80", "passing", 1, []string{`its host "nowhere.invalid" cannot be resolved here`}},
	} {
		t.Run(name, func(t *testing.T) {
			enlist(t, openAgent(t), "x", "x-1", test.address, test.status)
			r := runTool(t, "check", "x")
			r.want(t, test.code, "", "")
			for _, part := range test.out {
				if !strings.Contains(r.out, part) {
					t.Errorf("stdout %s, want %q in it", r.out, part)
				}
			}
			checks := 7
			if test.status == "critical" {
				checks++ // that too few are healthy
			}
			if test.code == 1 && r.err != fmt.Sprintf("meshlite: 1 of %d checks failed\n", checks) {
				t.Errorf("stderr %q", r.err)
			}
		})
	}
}

// R24: when so few instances are healthy that clients call the others, check says so.
//
// Case R24
func TestCheckSaysThatTooFewAreHealthy(t *testing.T) {
	const says = "instances are healthy by Consul: clients call the others as well, as far as they answer"
	for _, test := range []struct {
		healthy, critical int
		want              string
	}{
		{0, 2, "! 0 of 2 " + says},
		{1, 3, "! 1 of 4 " + says},
		{1, 2, ""},
		{2, 0, ""},
	} {
		t.Run(fmt.Sprintf("%d of %d", test.healthy, test.healthy+test.critical), func(t *testing.T) {
			agent := openAgent(t)
			for n := range test.healthy + test.critical {
				status := "passing"
				if n >= test.healthy {
					status = "critical"
				}
				enlist(t, agent, "x", fmt.Sprint("x-", n), openHealth(t, healthv1.HealthCheckResponse_SERVING, nil), status)
			}
			out := runTool(t, "check", "x").out
			if said := strings.Contains(out, says); said != (test.want != "") || !strings.Contains(out, test.want) {
				t.Errorf("stdout %s, want %q in it", out, test.want)
			}
		})
	}
}

// Case X16
func TestCheckOverTLS(t *testing.T) {
	cert, key, pair := selfSigned(t) // which proves the name "catalog"
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, &tls.Config{Certificates: []tls.Certificate{pair}}), "passing")
	enlist(t, agent, "prices", "prices-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, &tls.Config{Certificates: []tls.Certificate{pair}}), "passing")
	enlist(t, agent, "mutual", "mutual-1", openHealth(t, healthv1.HealthCheckResponse_SERVING,
		&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}), "passing")
	enlist(t, agent, "strict", "strict-1", openHealth(t, healthv1.HealthCheckResponse_SERVING,
		&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}), "passing")
	enlist(t, agent, "plain", "plain-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, nil), "passing")
	enlist(t, agent, "doubted", "doubted-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, &tls.Config{Certificates: []tls.Certificate{pair}}), "critical")
	for args, want := range map[string]result{
		// Consul may publish what a check says minutes after its state.
		"doubted --servername catalog --cacert " + cert: {1, "reach the address of the check, and verify its certificate by the name of the check? See its log. If the server demands a client's certificate", "1 of 8"},
		"catalog --cacert " + cert:                      {0, "SERVING in ", ""},
		"catalog --tls":                                 {1, "presents a certificate of an unknown authority", "1 of 7"},
		"prices --cacert " + cert:                       {1, "presents a certificate of another name (certificate is valid for catalog, not prices), Consul", "1 of 7"},
		"prices --servername catalog --cacert " + cert:  {0, "SERVING in ", ""},
		"catalog --servername prices --cacert " + cert:  {1, "presents a certificate of another name (certificate is valid for catalog, not prices), Consul", "1 of 7"},
		"mutual --servername catalog --cacert " + cert:  {1, "requires a client certificate, Consul says passing\n      present one by --cert and --key, or that of a service by --identity\n", "1 of 7"},
		"mutual --servername catalog --cacert " + cert + " --cert " + cert + " --key " + key: {0, "SERVING in ", ""},
		"strict --servername catalog --cacert " + cert + " --cert " + cert + " --key " + key: {1, "", "1 of 7"},
		"plain --tls":             {1, "speaks plaintext, not TLS", "1 of 7"},
		"plain --cert " + cert:    {2, "", "one needs the other"},
		"plain --cacert /nowhere": {2, "", "--cacert: open /nowhere"},
	} {
		t.Run(args, func(t *testing.T) {
			runTool(t, append([]string{"check"}, strings.Fields(args)...)...).want(t, want.code, want.out, want.err)
		})
	}
}

// Clients call one of those that share an address, so the others are a mistake.
func TestCheckOfTwoAtOneAddress(t *testing.T) {
	agent := openAgent(t)
	address := openHealth(t, healthv1.HealthCheckResponse_SERVING, nil)
	enlist(t, agent, "catalog", "catalog-old", address, "critical")
	enlist(t, agent, "catalog", "catalog-new", address, "passing")
	enlist(t, agent, "catalog", "catalog's $(older)", address, "")
	r := runTool(t, "check", "catalog")
	r.want(t, 1, "✗ catalog-new         "+address+"  is at the same address as catalog-old (node consultest), catalog's $(older) (node consultest): clients call only one of them\n", "2 of ")
	r.want(t, 1, "      remove what is stale, likely: `consul services deregister -id=catalog-old` on node consultest, `consul services deregister -id='catalog'\\''s $(older)'` on node consultest\n", "")
}

// One server may have several names. Else all but one are likely stale, and clients of
// their services call the wrong server.
func TestCheckOfTwoServicesAtOneAddress(t *testing.T) {
	agent := openAgent(t)
	address := openHealth(t, healthv1.HealthCheckResponse_SERVING, nil)
	host, port := splitAddress(t, address)
	for name, test := range map[string]struct {
		catalog, prices string // where the metrics are
		code            int
		out             string
	}{
		"one process":   {"10.0.0.1:9", "10.0.0.1:9", 0, "8 passed, 0 warnings, 0 failed"},
		"nobody knows":  {"", "", 0, "! catalog-1  " + address + "  is at the same address as prices-1 of service prices (node consultest)\n      that is right if one server has both names; if not, remove what is stale: `consul"},
		"two processes": {"10.0.0.1:9", "10.0.0.1:10", 1, "✗ catalog-1  " + address + "  is at the same address as prices-1 of service prices (node consultest), with other metrics: they are not one process\n      remove what is stale: `consul services deregister -id=catalog-1` on node consultest or `consul services deregister -id=prices-1` on node consultest\n"},
		"one is other":  {"", "10.0.0.1:10", 1, "with other metrics: they are not one process"},
	} {
		t.Run(name, func(t *testing.T) {
			for service, metrics := range map[string]string{"catalog": test.catalog, "prices": test.prices} {
				s := consultest.Service{ID: service + "-1", Name: service, Address: host, Port: port, Meta: map[string]string{"metrics_address": metrics},
					Checks: []consultest.Check{{Name: "lease", TTL: time.Hour, Status: "passing"}}}
				if err := agent.Register(s); err != nil {
					t.Fatal(err)
				}
			}
			runTool(t, "check").want(t, test.code, test.out, "")
		})
	}
}

func TestCheckOfAServerWithTwoNames(t *testing.T) {
	openAgent(t)
	openShop(t, "catalog", 1, meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Service: "sweets"}}), meshlite.WithMetricsAddress("127.0.0.1:0"))
	awaitPassing(t, "sweets", 1)
	runTool(t, "check").want(t, 0, "8 passed, 0 warnings, 0 failed", "")
}

// With warning instances or not, clients never call what has no weight.
func TestCheckOfNoWeight(t *testing.T) {
	agent := openAgent(t)
	host, port := splitAddress(t, openHealth(t, healthv1.HealthCheckResponse_SERVING, nil))
	s := consultest.Service{ID: "x-1", Name: "x", Address: host, Port: port, Weights: consultest.Weights{Passing: 1, Warning: 0},
		Checks: []consultest.Check{{Name: "lease", TTL: time.Hour, Status: "warning"}}}
	if err := agent.Register(s); err != nil {
		t.Fatal(err)
	}
	for _, status := range []string{"warning", "passing"} {
		t.Run(status, func(t *testing.T) {
			if status == "passing" { // for which an agent takes no weight of 0, as the catalog does
				agent.Inject(consultest.Edit(func(body []byte) []byte {
					body = bytes.ReplaceAll(body, []byte(`"Status":"warning"`), []byte(`"Status":"passing"`))
					return bytes.ReplaceAll(body, []byte(`"Weights":{"Passing":1`), []byte(`"Weights":{"Passing":0`))
				}))
			}
			r := runTool(t, "check")
			r.want(t, 0, ", Consul says "+status+" with weight 0", "")
			r.want(t, 0, "\n      clients never call it: register it with a weight above 0 for the state "+status+"\n", "")
			if strings.Contains(r.out, "WithWarningInstances") {
				t.Errorf("it advises what does not help: %s", r.out)
			}
		})
	}
}

func TestCheckOfUnknownServices(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, nil), "passing")
	r := runTool(t, "check", "catalogue", "payments", "catalog", "payments")
	r.want(t, 1, `has no service "catalogue"`+"\n      is it catalog?\n", "meshlite: 2 of 9 checks failed")
	r.want(t, 1, `has no service "payments"`+"\n      is its name right, and is it running?\n", "")
	r.want(t, 1, "✓ catalog-1", "")
}

func TestCheckOfAnEmptyConsul(t *testing.T) {
	openAgent(t)
	runTool(t, "check").want(t, 0, "! no service is registered", "")
}

func TestCheckOfConsul(t *testing.T) {
	t.Run("unreachable", func(t *testing.T) {
		address := closedPort(t)
		r := runTool(t, "check", "--http-addr", address)
		r.want(t, 1, "✗ consul at "+address+" refused the connection: is an agent running there? try `consul agent -dev`", "meshlite: 1 of 1 checks failed")
	})
	for name, test := range map[string]struct {
		token string
		code  int
		out   string
	}{
		"a good token":      {"right", 0, "✓ the token is good"},
		"an unknown token":  {"wrong-and-secret", 1, "rejects the token"},
		"a powerless token": {"weak", 1, "returns no services because of ACLs: the token needs service:read and node:read"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := consultest.New(consultest.WithACL("right", "weak"))
			defer agent.Close()
			address, err := agent.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			enlist(t, agent, "catalog", "catalog-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, nil), "passing")
			t.Setenv("CONSUL_HTTP_TOKEN", test.token)
			r := runTool(t, "check", "--http-addr", address)
			r.want(t, test.code, test.out, "")
			r.want(t, test.code, "✓ our clock is within 1s", "")
			if strings.Contains(r.out+r.err, "secret") {
				t.Errorf("it prints the token: %s%s", r.out, r.err)
			}
		})
	}
	// An agent that is reached is looked at further, whatever it says of itself.
	for name, test := range map[string]struct {
		refusals map[string]string // by path
		status   int
		code     int
		out      []string
	}{
		"itself broken": {map[string]string{"/v1/agent/self": "rpc error"}, 500, 1,
			[]string{"✓ consul at ", "✓ the leader is", `✗ consul at `, `answered 500 "rpc error"`, "✓ services: 1", "✓ catalog-1"}},
		"itself secret": {map[string]string{"/v1/agent/self": "Permission denied"}, 403, 0,
			[]string{"✓ consul at ", "! the token may not read the node", "✓ services: 1", "✓ catalog-1"}},
		"read by everybody": {map[string]string{"/v1/agent/self": "Permission denied", "/v1/acl/token/self": "ACL not found"}, 403, 0,
			[]string{"! consul at ", "has ACLs and no token is given: set CONSUL_HTTP_TOKEN", "✓ services: 1", "✓ catalog-1"}},
		"read by nobody": {map[string]string{"/v1/agent/self": "Permission denied", "/v1/acl/token/self": "ACL not found", "/v1/catalog/services": "Permission denied"}, 403, 1,
			[]string{"✗ consul at ", "has ACLs and no token is given: set CONSUL_HTTP_TOKEN", "3 passed, 0 warnings, 1 failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			agent := openAgent(t)
			enlist(t, agent, "catalog", "catalog-1", openHealth(t, healthv1.HealthCheckResponse_SERVING, nil), "passing")
			agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				text, refused := test.refusals[r.URL.Path]
				if refused {
					http.Error(w, text, test.status)
				}
				return refused
			})
			r := runTool(t, "check")
			for _, part := range test.out {
				r.want(t, test.code, part, "")
			}
		})
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		out    string
	}{
		"no leader": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`""`)) }, "✗ there is no leader"},
		"a clock ahead": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
			_, _ = w.Write([]byte(`"127.0.0.1:8300"`))
		}, "behind that of the agent\n      certificates may seem expired or not yet valid"},
		"a clock behind": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat))
			_, _ = w.Write([]byte(`"127.0.0.1:8300"`))
		}, "ahead of that of the agent"},
	} {
		t.Run(name, func(t *testing.T) {
			openAgent(t).Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v1/status/leader" {
					return false
				}
				test.answer(w, r)
				return true
			})
			runTool(t, "check").want(t, 1, test.out, "meshlite: 1 of 6 checks failed")
		})
	}
}

func TestCheckAsJSON(t *testing.T) {
	agent := openAgent(t)
	address := closedPort(t)
	enlist(t, agent, "catalog", "catalog-1", address, "passing")
	r := runTool(t, "check", "-o", "json")
	r.want(t, 1, "", "meshlite: 1 of 7 checks failed")
	var report struct {
		Passed, Warnings, Failed int
		Checks                   []map[string]string
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	last := report.Checks[len(report.Checks)-1]
	if report.Passed != 6 || report.Warnings != 0 || report.Failed != 1 || last["group"] != "service" || last["service"] != "catalog" ||
		last["instance"] != "catalog-1" || last["address"] != address || last["name"] != "health" || last["result"] != "failed" ||
		last["text"] != "refuses connections, Consul says passing" || last["fix"] == "" {
		t.Errorf("got %s", r.out)
	}
	if first := report.Checks[0]; first["group"] != "consul" || first["name"] != "reachable" || first["result"] != "passed" {
		t.Errorf("the first is %v", first)
	}
}

// What was registered must not play tricks on a terminal.
func TestCheckOfHostileNames(t *testing.T) {
	enlist(t, openAgent(t), "x\x1b[2J", "id\x1b[2J\n", "", "passing")
	if r := runTool(t, "check"); strings.Contains(r.out+r.err, "\x1b") || r.code != 1 {
		t.Errorf("exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
	}
}

func TestCheckIsBounded(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	agent := openAgent(t)
	for i := range 40 {
		enlist(t, agent, "x", "x-"+strconv.Itoa(i), silent.Addr().String(), "passing")
	}
	runTool(t, "check", "--timeout", "500ms").want(t, 1, "was not probed", "")
	runTool(t, "check", "--timeout", "0s").want(t, 2, "", "--timeout 0s: write a duration above 0")

	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() { _, _ = silent.Accept(); close(asked); cancel() }()
	meshliteWith(ctx, "", "check").want(t, 130, "", "meshlite: interrupted")
	<-asked
}
