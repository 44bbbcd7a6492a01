package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// openStates serves grpc.health.v1: "" and "up" are serving, "down" is not.
func openStates(t *testing.T, options ...grpc.ServerOption) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, states := grpc.NewServer(options...), health.NewServer()
	states.SetServingStatus("up", healthv1.HealthCheckResponse_SERVING)
	states.SetServingStatus("down", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(server, states)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// openSilent accepts connections and says nothing.
func openSilent(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

func TestProbe(t *testing.T) {
	// Proxies of the environment have no part in a probe.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	cert, key, pair := selfSigned(t)
	plain, silent := openStates(t), openSilent(t)
	tlsAddress := openStates(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}})))
	without := openTLS(t, &tls.Config{Certificates: []tls.Certificate{pair}})
	for _, test := range []struct {
		args     string
		code     int
		out, err string
	}{
		{"--plaintext " + plain, 0, plain + ": SERVING in ", ""},
		{"--plaintext " + plain + " --service up", 0, "SERVING", ""},
		{"--plaintext " + plain + " --service down", 1, "", "the server is NOT_SERVING"},
		{"--plaintext " + plain + " --service none", 1, "", `has no service "none": without --service the whole server is asked`},
		{tlsAddress + " --cacert " + cert, 0, "SERVING", ""},
		{tlsAddress + " --cacert " + cert + " --cert " + cert + " --key " + key + " --servername catalog", 0, "SERVING", ""},
		{tlsAddress + " --cacert " + cert + " --servername inventory", 1, "", "name what the certificate proves by --servername"},
		{tlsAddress, 1, "", "name the file of its authority by --cacert"},
		{tlsAddress + " --plaintext", 1, "", "if the server speaks TLS, leave --plaintext out"},
		{plain, 1, "", "the server speaks plaintext: add --plaintext"},
		{without + " --cacert " + cert, 1, "", "the server has no gRPC health service"},
		{"--plaintext 127.0.0.1:1", 1, "", "is a server running there?"},
		{"--plaintext --timeout 100ms " + silent, 1, "", "is --timeout 100ms enough?"},
		{"", 2, "", "probe takes host:port, or --http URL"},
		{"a:1 b:1", 2, "", "not 2 arguments"},
		{"catalog", 2, "", `target "catalog" has no port`},
		{"consul:///catalog", 2, "", "a probe asks one process: write host:port"},
		{"dns:///a:1", 2, "", "a probe asks one process"},
		{"127.0.0.1:99999", 2, "", `port "99999"`},
		{"--timeout 0s a:1", 2, "", "--timeout 0s"},
		{"--wait -1s a:1", 2, "", "--wait -1s"},
		{"--plaintext --wait 300ms 127.0.0.1:1", 1, "", "is a server running there?"},
		{"--plaintext --cacert " + cert + " a:1", 2, "", "--plaintext together with"},
		{"a:1 --http http://a/", 2, "", `"a:1" together with --http`},
		{"--service x --http http://a/", 2, "", `--service "x" together with --http`},
		{"--http a:1/readyz", 2, "", "write a URL such as http://"},
		{"--http http://user:secret@a/", 2, "", "write a URL such as http://"},
		{"--http http://a/ --cacert " + cert, 2, "", "write https"},
		{"--http https://a/ --plaintext", 2, "", "leave one out"},
	} {
		t.Run(test.args, func(t *testing.T) {
			r := runTool(t, append([]string{"probe"}, strings.Fields(test.args)...)...)
			r.want(t, test.code, test.out, test.err)
			if r.code != 0 && strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "secret") {
				t.Errorf("stderr %q, want one line without a secret", r.err)
			}
		})
	}
}

func TestProbeOfHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/draining", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "draining\n\x1b[2Jfor 1s", http.StatusServiceUnavailable)
	})
	mux.Handle("/moved", http.RedirectHandler("/readyz", http.StatusFound))
	server := httptest.NewServer(mux)
	defer server.Close()
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	authority := writePEM(t, "CERTIFICATE", secure.Certificate().Raw)
	for _, test := range []struct {
		args     string
		code     int
		out, err string
	}{
		{"--http " + server.URL + "/readyz", 0, "/readyz: 200 OK in ", ""},
		{"--http " + server.URL + "/draining", 1, "", "503 Service Unavailable: draining; \ufffd[2Jfor 1s"},
		{"--http " + server.URL + "/moved", 1, "", "302 Found: a redirect to /readyz, which is not followed"},
		{"--http " + server.URL + "/none", 1, "", "404 Not Found"},
		{"--http " + secure.URL + "/readyz --cacert " + authority, 0, "200 OK", ""},
		{"--http " + secure.URL + "/readyz", 1, "", "name the file of its authority by --cacert"},
		{"--http https" + strings.TrimPrefix(server.URL, "http") + "/readyz", 1, "", "server gave HTTP response to HTTPS client"},
		{"--http http://127.0.0.1:1/readyz", 1, "", "is a server running there?"},
		{"--timeout 100ms --http http://" + openSilent(t) + "/readyz", 1, "", "is --timeout 100ms enough?"},
	} {
		t.Run(test.args, func(t *testing.T) {
			r := runTool(t, append([]string{"probe"}, strings.Fields(test.args)...)...)
			r.want(t, test.code, test.out, test.err)
		})
	}
}

func TestProbeAsJSON(t *testing.T) {
	address := openStates(t)
	for service, want := range map[string]struct {
		code    int
		status  string
		message string
	}{"": {0, "SERVING", ""}, "down": {1, "NOT_SERVING", "the server is NOT_SERVING"}, "none": {1, "NotFound", "NotFound: unknown service"}} {
		r := runTool(t, "probe", "--plaintext", address, "--service", service, "-o", "json")
		var p struct {
			Target, Status, Message string
			Healthy                 bool
		}
		if err := json.Unmarshal([]byte(r.out), &p); err != nil {
			t.Fatalf("%s: %v", r.out, err)
		}
		if r.code != want.code || p.Target != address || p.Status != want.status || p.Healthy != (want.code == 0) || !strings.HasPrefix(p.Message, want.message) {
			t.Errorf("--service %q: exit code %d, %+v, want %+v", service, r.code, p, want)
		}
	}
}

// A script that restarts a server waits until it is healthy again.
func TestProbeWaits(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, states := grpc.NewServer(), &startingHealth{refusals: 3}
	healthv1.RegisterHealthServer(server, states)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	runTool(t, "probe", "--plaintext", listener.Addr().String()).want(t, 1, "", "NOT_SERVING")
	runTool(t, "probe", "--plaintext", "--wait", "1m", listener.Addr().String()).want(t, 0, "SERVING", "")
}

// startingHealth is not serving the first times that it is asked. Probes ask one after the other.
type startingHealth struct {
	healthv1.UnimplementedHealthServer
	refusals int
}

func (h *startingHealth) Check(context.Context, *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if h.refusals--; h.refusals >= 0 {
		return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}
