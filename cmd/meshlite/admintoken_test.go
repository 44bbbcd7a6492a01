package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// The token for admin pages goes to a page that demands it, by a variable or a file, and
// nowhere else: not to one that answers without, nor to where a page redirects.
//
// Case I13
func TestTheAdminTokenIsSentToPagesThatDemandIt(t *testing.T) {
	openAgent(t)
	const token = "0123456789abcdef0123456789abcdef"
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\nthe-one-before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	guarded := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch given := r.Header.Get("Authorization"); {
		case given == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="meshlite"`)
			http.Error(w, "write the header Authorization", http.StatusUnauthorized)
		case given != "Bearer "+token:
			http.Error(w, "wrong token", http.StatusForbidden)
		case r.Method == http.MethodPost:
			if body, _ := io.ReadAll(r.Body); string(body) != "all=true" {
				http.Error(w, "the values are gone", http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, `{"caches": [{"name": "runtime", "entries": 3}]}`)
		default:
			_, _ = io.WriteString(w, `{"cache": [], "endpoints": [], "limits": []}`)
		}
	}))
	var leaked atomic.Int32
	elsewhere := servePage(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
	}))
	redirects := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="meshlite"`)
			http.Error(w, "more, please", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "http://"+strings.Replace(elsewhere, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	open := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		_, _ = io.WriteString(w, `{"caches": [{"name": "runtime", "entries": 3}]}`)
	}))

	clear := func(client string) result { return runTool(t, "cache", "clear", "--all", "--client", client) }
	clear(guarded).want(t, 1, "", "cannot ask "+guarded+": write the header Authorization")
	t.Setenv("MESHLITE_ADMIN_TOKEN", strings.Repeat("x", 32))
	clear(guarded).want(t, 1, "", "cannot ask "+guarded+": wrong token")
	t.Setenv("MESHLITE_ADMIN_TOKEN", token)
	clear(guarded).want(t, 0, "", "")
	runTool(t, "endpoints", "catalog", "--picks", "--client", guarded).want(t, 1, "", `none of 1 clients calls "catalog"`)
	t.Setenv("MESHLITE_ADMIN_TOKEN", "")
	t.Setenv("MESHLITE_ADMIN_TOKEN_FILE", path)
	clear(guarded).want(t, 0, "", "")
	clear(open).want(t, 0, "", "")
	clear(redirects).want(t, 1, "", "307 Temporary Redirect")
	if n := leaked.Load(); n != 0 {
		t.Errorf("the token was sent %d times to where it is not demanded", n)
	}
}

// demandsToken is a page that counts the tokens that it receives and has nothing for those
// without.
func demandsToken(tokens *atomic.Int32) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="meshlite"`)
			http.Error(w, "write the header Authorization", http.StatusUnauthorized)
			return
		}
		tokens.Add(1)
		http.Error(w, "wrong token", http.StatusForbidden)
	})
}

// Whoever can register in Consul chooses the addresses there: no command sends the token to
// them in plaintext, unless they are of this host, are named, or are in a network that is.
//
// Case I13
func TestTheAdminTokenStaysOnThisHost(t *testing.T) {
	agent := openAgent(t)
	t.Setenv("MESHLITE_ADMIN_TOKEN", strings.Repeat("x", 32))
	// A name may be of any host.
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("SKIPPED, this host has no address by its name: %v", err)
	}
	var tokens atomic.Int32
	away := httptest.NewUnstartedServer(demandsToken(&tokens))
	_ = away.Listener.Close()
	away.Listener = listener
	away.Start()
	t.Cleanup(away.Close)
	_, port := splitAddress(t, listener.Addr().String())
	address := net.JoinHostPort(host, strconv.Itoa(port))
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", address)
	commands := [][]string{{"cache", "stats"}, {"cache", "clear", "--all"}, {"limits"}, {"top", "--once", "--interval", "100ms"}, {"endpoints", "catalog", "--picks"}}
	for _, command := range commands {
		runTool(t, command...).want(t, 1, "", "cannot ask storefront-1 ("+address+"): it demands the token, which is sent unencrypted only to this host and to what is named: name pages by --client, or a network that is trusted by --send-token-to")
		runTool(t, append(command, "--send-token-to", "127.0.0.0/8")...).want(t, 1, "", "it demands the token") // a name is in no network
		if n := tokens.Swap(0); n != 0 {
			t.Errorf("%v: the token was sent %d times", command, n)
		}
		runTool(t, append(command, "--client", address)...).want(t, 1, "", "wrong token")
		if n := tokens.Swap(0); n == 0 {
			t.Errorf("%v: the token was not sent to a page that is named", command)
		}
	}
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", servePage(t, demandsToken(&tokens)))
	for _, command := range commands {
		runTool(t, command...).want(t, 1, "", "wrong token")
		if n := tokens.Swap(0); n == 0 {
			t.Errorf("%v: the token was not sent on this host", command)
		}
	}
}

// Case I13
func TestFlagsOfAdminPages(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t)) // none of these asks for anything
	for args, want := range map[string]string{
		"limits --send-token-to 10.0.0.0/33":                                `--send-token-to "10.0.0.0/33": write a network or an address, such as 10.0.0.0/8`,
		"limits --send-token-to web-9":                                      `--send-token-to "web-9": write a network`,
		"limits --send-token-to fe80::1%eth0":                               `--send-token-to "fe80::1%eth0": write a network`,
		"top --send-token-to 10.0.0.1 --client a:1":                         "--send-token-to together with --client",
		"cache stats --cacert x":                                            "without a --client https://host:port: pages in Consul are read in plaintext, or by --identity alone",
		"limits --identity ops --servername catalog":                        "or --identity beside a --client, without a --client https://host:port",
		"limits --identity ops --client a:1":                                "or --identity beside a --client, without a --client https://host:port",
		"cache clear --all --cert x --key y --client a:1":                   "without a --client https://host:port",
		"cache stats --client https://a":                                    `--client "https://a": write host:port, such as 127.0.0.1:9090, or https://host:port`,
		"cache stats --client https://a:1/x":                                `--client "https://a:1/x": write host:port`,
		"limits --client https://a:1 --identity ops":                        `--identity "ops": an address names no service: say which one must listen there by --servername`,
		"limits --client https://a:1 --identity ops --servername a --key x": `--identity "ops" together with --plaintext, --cacert, --cert or --key`,
		"limits --client https://a:1 --cert x":                              `--cert "x", --key "": one needs the other`,
		"endpoints catalog --picks --client https://a:1 --cacert /nowhere/": "--cacert: open /nowhere/",
		"endpoints catalog --send-token-to 10.0.0.1":                        "--send-token-to without --picks: write both",
		"endpoints catalog --cacert x":                                      "without a --client https://host:port",
	} {
		t.Run(args, func(t *testing.T) { runTool(t, strings.Fields(args)...).want(t, 2, "", want) })
	}
}

// The page that a program serves by mTLS opens to the operator's certificate, and a page that
// is not who it is to be receives nothing.
//
// Case I13
func TestAdminPagesOverMutualTLS(t *testing.T) {
	openAgent(t)
	const operator = "spiffe://a.consul/ns/default/dc/dc1/svc/operator"
	authority := certtest.New(t)
	handler, err := newRuntime(t).AdminHandler(admin.WithIdentities(operator), admin.WithHosts("web-1.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = "10.0.0.2:4000" // is elsewhere
		handler.ServeHTTP(w, r)
	}))
	page.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1", "web-1.example.com")}, ClientCAs: authority.Roots, ClientAuth: tls.VerifyClientCertIfGiven}
	page.StartTLS()
	t.Cleanup(page.Close)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	files := func(id string) []string {
		pair := authority.IssueID(t, time.Hour, id)
		key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"--cert", writePEM(t, "CERTIFICATE", pair.Certificate[0]), "--key", writePEM(t, "PRIVATE KEY", key), "--cacert", roots}
	}
	clear := func(flags ...string) result {
		return runTool(t, append([]string{"cache", "clear", "--all", "--client", page.URL}, flags...)...)
	}
	clear(files(operator)...).want(t, 0, page.URL+", cache runtime: cleared", "")
	clear(append(files(operator), "--servername", "web-1.example.com")...).want(t, 0, "cleared", "")
	clear(append(files(operator), "--servername", "web-2.example.com")...).want(t, 1, "", "not web-2.example.com")
	clear(files("spiffe://a.consul/ns/default/dc/dc1/svc/web")...).want(t, 1, "", "the identity of the certificate is not one of the program's MESHLITE_ADMIN_IDENTITIES")
	clear("--cacert", roots).want(t, 1, "", "call by https with the client certificate")
	t.Setenv("MESHLITE_ADMIN_TOKEN", strings.Repeat("x", 32))
	clear().want(t, 1, "", "certificate signed by unknown authority: name the file of its authority by --cacert")
}

// A page that a program serves as a service of the mesh is read as another, by Consul's CA.
//
// Case I13
func TestAdminPagesAsAService(t *testing.T) {
	agent := openAgent(t)
	operator := "spiffe://" + agent.TrustDomain() + "/ns/default/dc/dc1/svc/ops"
	runtime := newRuntime(t)
	openChannel(t, "consul:///catalog", runtime)
	handler, err := runtime.AdminHandler(admin.WithIdentities(operator))
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewUnstartedServer(handler)
	page.TLS = asService(t, "storefront").ServerTLS()
	page.StartTLS()
	t.Cleanup(page.Close)
	clear := func(identity, servername string) result {
		return runTool(t, "cache", "clear", "--all", "--client", page.URL, "--identity", identity, "--servername", servername)
	}
	clear("ops", "storefront").want(t, 0, page.URL+", cache runtime: cleared", "")
	clear("web", "storefront").want(t, 1, "", "the identity of the certificate is not one of the program's MESHLITE_ADMIN_IDENTITIES")
	clear("ops", "catalog").want(t, 1, "", "wrong_service")
	runTool(t, "limits", "--client", page.URL, "--identity", "ops", "--servername", "storefront").want(t, 0, "1 process", "")
	runTool(t, "limits", "--client", page.URL, "--identity", "ops", "--servername", "catalog").want(t, 1, "", "wrong_service")
	explain := func(flags ...string) result {
		return runTool(t, append([]string{"explain", "consul:///catalog", getSweet, "--client", page.URL}, flags...)...)
	}
	explain("--identity", "ops", "--servername", "storefront").want(t, 0, "by the client at "+page.URL+"\n", "")
	explain("--identity", "ops", "--servername", "catalog").want(t, 1, "", "wrong_service")
	explain("--identity", "ops").want(t, 2, "", "say which one must listen there by --servername")
}
