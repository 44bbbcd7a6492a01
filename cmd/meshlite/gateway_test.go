package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/meshlite-go/meshlite/internal/certtest"
)

// door is a running gateway.
type door struct {
	url    string
	client *http.Client
	stop   func() result // ends it, and returns what it left behind
}

// openGateway runs the command on a free port until the test ends.
func openGateway(t *testing.T, args ...string) door {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	var errors buffer
	done := make(chan int, 1)
	go func() {
		args := append([]string{"gateway", "--listen", "127.0.0.1:0", "--drain", "0s", "-o", "json"}, args...)
		done <- run(ctx, args, nil, in, &errors)
		in.Close()
	}()
	var announced struct{ Address string }
	if err := json.NewDecoder(out).Decode(&announced); err != nil {
		cancel()
		t.Fatalf("it does not start: code %d: %s", <-done, errors.String())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	d := door{url: announced.Address, client: &http.Client{Transport: &http.Transport{}}}
	stopped := false
	d.stop = func() result {
		if stopped {
			return result{}
		}
		stopped = true
		cancel()
		code := <-done
		d.client.CloseIdleConnections()
		return result{code: code, err: errors.String()}
	}
	t.Cleanup(func() { d.stop() })
	return d
}

// ask makes a request with headers "name: value", and checks the status.
func (d door) ask(t *testing.T, method, path, body string, status int, headers ...string) (answer string, header http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := d.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		t.Errorf("%s %s: %s %s (%v), want %d", method, path, response.Status, text, err, status)
	}
	return string(text), response.Header
}

func TestGatewayServesAServiceByReflection(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 2)
	d := openGateway(t, "--plaintext", "catalog", "--register")
	if text, _ := d.ask(t, "POST", "/"+sweetMethod, `{"id": "fudge"}`, 200); !strings.Contains(text, `"sweet"`) {
		t.Errorf("the answer is %s", text)
	}
	d.ask(t, "GET", "/"+sweetMethod+"?id=fudge", "", 200)
	d.ask(t, "GET", "/grpc.health.v1.Health/Check", "", 404)
	d.ask(t, "GET", "/readyz", "", 200)
	runTool(t, "services").want(t, 0, "gateway  1        0        0         http\n", "")
	if r := d.stop(); r.code != 0 {
		t.Errorf("exit code %d, want 0: %s", r.code, r.err)
	}
	if r := runTool(t, "services"); strings.Contains(r.out, "gateway") {
		t.Errorf("after it has ended, Consul has it: %s", r.out)
	}
}

func TestGatewayLetsOutWhatWasNamed(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	d := openGateway(t, "--plaintext", "catalog="+sweetMethod)
	d.ask(t, "POST", "/"+sweetMethod, `{"id": "fudge"}`, 200)
	d.ask(t, "POST", "/sweetshop.catalog.v1.CatalogService/ListSections", `{}`, 404)
}

// The fixed list of `--http web=/web/,URL,URL`: requests alternate, and the limit and the
// trusted proxy are those of the flags.
func TestGatewayBalancesPlainHTTP(t *testing.T) {
	openAgent(t)
	var urls []string
	for i := range 2 {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%d %s %s", i, r.URL.Path, r.Header.Get("X-Forwarded-For"))
		}))
		t.Cleanup(server.Close)
		urls = append(urls, server.URL)
	}
	d := openGateway(t, "--http", "web=/web/,"+strings.Join(urls, ","), "--limit", "address=10/1h", "--trusted-proxies", "127.0.0.1")
	seen := map[string]int{}
	for range 10 {
		text, _ := d.ask(t, "GET", "/web/page", "", 200, "X-Forwarded-For: 192.0.2.7")
		seen[text]++
	}
	if seen["0 /page 192.0.2.7, 127.0.0.1"] != 5 || seen["1 /page 192.0.2.7, 127.0.0.1"] != 5 {
		t.Errorf("of 10 answers there are %v, want 5 of each instance", seen)
	}
	if _, header := d.ask(t, "GET", "/web/page", "", 429, "X-Forwarded-For: 192.0.2.7"); header.Get("Retry-After") == "" {
		t.Error("the refusal has no Retry-After")
	}
	d.ask(t, "GET", "/web/page", "", 200, "X-Forwarded-For: 192.0.2.8")
}

func TestGatewayRefusesBadFlags(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for args, want := range map[string]string{
		"":                                        "nothing is let out",
		"catalog=a-b":                             `service "catalog=a-b"`,
		"--http web=/ --http-policy random":       `--http-policy "random": write least_request`,
		"--http web":                              `--http "web"`,
		"catalog --limit address=1":               `--limit "address=1"`,
		"catalog --trusted-proxies x":             `--trusted-proxies "x"`,
		"catalog --descriptors x.binpb":           `--descriptors "x.binpb"`,
		"catalog --listen 8080":                   `--listen "8080"`,
		"catalog --metrics-address 8080":          `--metrics-address "8080"`,
		"catalog --tls-cert x":                    `--tls-cert "x", --tls-key ""`,
		"catalog --tls-cert x --tls-key y":        `--tls-cert "x", --tls-key "y": open x`,
		"catalog --client-ca x":                   `--client-ca "x": certificates`,
		"catalog --advertise 10.0.0.1:80":         "--advertise \"10.0.0.1:80\" without --register",
		"catalog --register --advertise x":        `--advertise "x"`,
		"catalog --jwt-issuer x":                  `--jwt-issuer "x", --jwt-audience ""`,
		"catalog --jwt-jwks " + none:              "without both",
		"catalog --require-subject":               "--require-subject",
		"catalog --drain -1s":                     "--drain -1s",
		"catalog --cors-origin shop":              `"shop" is no origin`,
		"catalog --plaintext --cacert x":          "--plaintext together with",
		"catalog --plaintext --forward-header te": `"te"`,
		"catalog --plaintext --jwt-jwks " + none + " --jwt-issuer i --jwt-audience a": "no such file",
	} {
		runTool(t, append([]string{"gateway"}, strings.Fields(args)...)...).want(t, 2, "", want)
	}
	runTool(t, "gateway", "--plaintext", "catalog=grpc.health.v1.Health").want(t, 2, "", "gRPC's own service")
}

func TestGatewayNamesATakenPort(t *testing.T) {
	openAgent(t)
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	runTool(t, "gateway", "--http", "web=/,"+server.URL, "--listen", address).want(t, 1, "", "another program listens there")
}

// Two sites with the same URL without their prefixes keep their answers apart, and --http-cache
// 0 keeps none.
func TestGatewayCachesPlainHTTP(t *testing.T) {
	openAgent(t)
	var asked atomic.Int32
	args := []string{}
	for _, name := range []string{"web", "docs"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600")
			_, _ = fmt.Fprint(w, name, asked.Add(1))
		}))
		t.Cleanup(server.Close)
		args = append(args, "--http", name+"=/"+name+"/,"+server.URL)
	}
	d := openGateway(t, args...)
	for path, want := range map[string]string{"/web/a": "web", "/docs/a": "docs"} {
		first, _ := d.ask(t, "GET", path, "", 200)
		second, header := d.ask(t, "GET", path, "", 200)
		if !strings.HasPrefix(first, want) || first != second || header.Get("Age") == "" {
			t.Errorf("%s: %q, then %q with %v, want one answer of %s from the cache", path, first, second, header, want)
		}
	}
	plain := openGateway(t, append(args, "--http-cache", "0")...)
	if first, _ := plain.ask(t, "GET", "/web/a", "", 200); first == "web1" {
		t.Errorf("without a cache the answer is %q", first)
	}
	plain.ask(t, "GET", "/web/a", "", 200)
	if n := asked.Load(); n != 4 {
		t.Errorf("the services were asked %d times, want 4", n)
	}
}

// With --client-ca and --require-subject, a verified certificate is let in, and nobody else.
// The gateway registers with TLS, too: it checks itself at its own address.
func TestGatewayRequiresACertificate(t *testing.T) {
	openAgent(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Meshlite-Subject"))
	}))
	t.Cleanup(server.Close)
	authority := certtest.New(t)
	pair := authority.Issue(t, "localhost", "127.0.0.1")
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	d := openGateway(t, "--http", "web=/,"+server.URL, "--tls-cert", writePEM(t, "CERTIFICATE", pair.Certificate[0]), "--tls-key", writePEM(t, "PRIVATE KEY", key), "--client-ca", ca, "--require-subject", "--register")
	d.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Roots}}
	t.Cleanup(d.client.CloseIdleConnections)
	d.ask(t, "GET", "/", "", 401)
	d.ask(t, "GET", "/readyz", "", 200)
	known := d
	known.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Roots, Certificates: []tls.Certificate{authority.Issue(t, "ada")}}}}
	t.Cleanup(known.client.CloseIdleConnections)
	if subject, _ := known.ask(t, "GET", "/", "", 200, "X-Meshlite-Subject: eve"); !strings.Contains(subject, "ada") {
		t.Errorf("the service gets the subject %q, want that of the certificate", subject)
	}
	runTool(t, "services").want(t, 0, "gateway  1        0        0         https\n", "")
}
