package meshlite_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// trusted is an authority among the system's roots of this process.
var trusted *certtest.Authority

// trustByTheSystem makes trusted. The roots are read once a process, and a file that has
// been read can go.
func trustByTheSystem() (err error) {
	if trusted, err = certtest.NewAuthority(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meshlite-roots")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := dir + "/roots.pem"
	if err := os.WriteFile(file, trusted.PEM, 0o600); err != nil {
		return err
	}
	os.Setenv("SSL_CERT_FILE", file)
	_, err = x509.SystemCertPool()
	return err
}

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

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// line is the first that holds part.
func (l *logged) line(part string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

func serverTLS(pair tls.Certificate, more ...func(*tls.Config)) meshlite.Option {
	settings := &tls.Config{Certificates: []tls.Certificate{pair}}
	for _, change := range more {
		change(settings)
	}
	return meshlite.WithTLS(settings)
}

// secured runs a catalog against a directory and a log of its own, and returns what Run
// has answered once it has.
func secured(t *testing.T, directory *consul.Directory, log *logged, opts ...meshlite.ServerOption) (ended chan error, stop func()) {
	t.Helper()
	server, err := meshlite.NewServer("catalog", append([]meshlite.ServerOption{
		meshlite.WithDirectory(directory), meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))),
		meshlite.WithRuntime(newRuntime(t)), meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, time.Second),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	done := make(chan struct{})
	go func() { defer close(done); ended <- server.Run(ctx) }()
	return ended, func() { cancel(); <-done }
}

// checked waits for the first result of Consul's own check, and gives it. The agent
// itself is asked: the catalog receives an output late whose status is as before.
func checked(t *testing.T, directory *consul.Directory, ended chan error) *api.AgentCheck {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: strings.TrimPrefix(directory.Name(), "consul at ")})
	if err != nil {
		t.Fatal(err)
	}
	for {
		checks, err := client.Agent().Checks()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			if c.ServiceName == "catalog" && c.Output != "" {
				return c
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("the server ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func mutual(authority *certtest.Authority) func(*tls.Config) {
	return func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, authority.Roots }
}

// What the self-check proves is what Consul will check (TLS name, authorities, plaintext
// or not); a server in rotation stays there.
//
// Case G6: What the self-check proves is what Consul will check; a server in rotation stays
// there.
func TestAServerInRotationStaysThere(t *testing.T) {
	private := certtest.New(t)
	var verify []func() // once all are up: Consul checks within 5 s
	for name, test := range map[string]struct {
		opts   []meshlite.ServerOption
		says   string
		output string // of Consul's check
	}{
		"name of the service": {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "catalog"))}, `verified for \"catalog\"`, ": success"},
		"address":             {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "127.0.0.1"))}, `verified for \"127.0.0.1\"`, ": success"},
		"named by option": {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "sweets")), meshlite.WithRegistration(catalog.Registration{CheckServerName: "sweets"})},
			`verified for \"sweets\"`, ": success"},
		"another name":       {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "sweets"))}, "the certificate is not verified: tls: ", ": success"},
		"private authority":  {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"))}, "the certificate is not verified: tls: ", ": success"},
		"skipped by option":  {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "catalog")), meshlite.WithRegistration(catalog.Registration{CheckSkipVerify: true})}, "the certificate is not verified\"", ": success"},
		"TTL by option":      {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog")), meshlite.WithRegistration(catalog.Registration{TTL: 3 * time.Second})}, "three times in 3s", "self-check passed"},
		"mutual":             {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private))}, "three times in 15s: the server demands a client's certificate", "self-check passed"},
		"mutual of TLS 1.2":  {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })}, "three times in 15s: the server demands a client's certificate", "self-check passed"},
		"mutual if they can": {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert })}, "the certificate is not verified: tls: ", ": success"},
		"mutual, listener":   {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private)), meshlite.WithHealthListener("")}, "gRPC in plaintext at 127.0.0.1:", ": success"},
		"plaintext":          {[]meshlite.ServerOption{meshlite.WithPlaintext()}, "gRPC in plaintext at 127.0.0.1:", ": success"},
		"insecure":           {[]meshlite.ServerOption{meshlite.WithTransportCredentials(insecure.NewCredentials())}, "gRPC in plaintext at 127.0.0.1:", ": success"},
		"local":              {[]meshlite.ServerOption{meshlite.WithTransportCredentials(local.NewCredentials())}, "gRPC in plaintext at 127.0.0.1:", ": success"},
	} {
		m := newMesh(t)
		log := &logged{}
		ended, stop := secured(t, m.directory, log, test.opts...)
		defer stop()
		verify = append(verify, func() {
			if c := checked(t, m.directory, ended); c.Status != api.HealthPassing || !strings.Contains(c.Output, test.output) {
				t.Errorf("%s: Consul's check says %v: %q, want passing and %q", name, c.Status, c.Output, test.output)
			}
			if line := log.line("msg=serving"); !strings.Contains(line, test.says) {
				t.Errorf("%s: the log says %q, want %q in it", name, line, test.says)
			}
		})
	}
	for _, v := range verify {
		v()
	}
}

// own are credentials that only a peer with the same understands.
type own struct {
	credentials.TransportCredentials
}

func (own) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn.Close()
	return nil, nil, errors.New("not one of us")
}

func (o own) Clone() credentials.TransportCredentials { return o }

// A server that no check of Consul's can call is refused at its start, with what to set.
//
// Case G6
func TestAServerThatConsulCannotCheckIsRefused(t *testing.T) {
	private := certtest.New(t)
	for name, test := range map[string]struct {
		opts []meshlite.ServerOption
		want []string
	}{
		"credentials of one's own": {[]meshlite.ServerOption{meshlite.WithTransportCredentials(own{insecure.NewCredentials()})},
			[]string{"no health check", "WithHealthListener", "TTL of WithRegistration"}},
		"mutual, name given": {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private)), meshlite.WithRegistration(catalog.Registration{CheckServerName: "catalog"})},
			[]string{"client's certificate", "WithHealthListener", "TTL of WithRegistration"}},
		"mutual, skip given": {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private)), meshlite.WithRegistration(catalog.Registration{CheckSkipVerify: true})},
			[]string{"client's certificate", "WithHealthListener", "TTL of WithRegistration"}},
		"a name that it does not prove": {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "catalog")), meshlite.WithRegistration(catalog.Registration{CheckServerName: "sweets"})},
			[]string{"catalog, not sweets"}},
		"plaintext, skip given": {[]meshlite.ServerOption{meshlite.WithTransportCredentials(insecure.NewCredentials()), meshlite.WithRegistration(catalog.Registration{CheckSkipVerify: true})},
			[]string{"no health check", "TLS"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			ended, stop := secured(t, m.directory, &logged{}, test.opts...)
			defer stop()
			mustExplain(t, test.want, func() error { return <-ended })
			if n := len(m.instances("catalog")); n != 0 {
				t.Errorf("%d instances are registered, want none", n)
			}
		})
	}
}

// An authority that only the agent may know cannot be proven at the start; what Consul
// finds is in the server's log.
//
// Case G7
func TestAnAuthorityThatTheAgentDoesNotKnowIsLogged(t *testing.T) {
	m := newMesh(t)
	log := &logged{}
	address := strings.TrimPrefix(m.directory.Name(), "consul at ")
	directory, err := consul.New(consul.Config{Address: address, Heartbeat: time.Second, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	ended, stop := secured(t, directory, log, serverTLS(certtest.New(t).Issue(t, "catalog")), meshlite.WithRegistration(catalog.Registration{CheckServerName: "catalog"}))
	defer stop()
	if c := checked(t, directory, ended); c.Status != api.HealthCritical {
		t.Fatalf("Consul's check says %v: %q", c.Status, c.Output)
	}
	for log.line("reports this instance as critical") == "" {
		time.Sleep(20 * time.Millisecond)
	}
	if line := log.line("reports this instance as critical"); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "unknown authority") {
		t.Errorf("the log says %q, want a warning with Consul's output", line)
	}
	if line := log.line("msg=serving"); !strings.Contains(line, `verified for \"catalog\" by the agent's authorities`) {
		t.Errorf("the log says %q, want that the agent must know the authority", line)
	}
}

// The health listener answers for the health, and for nothing else.
//
// Case G6
func TestTheHealthListenerHasTheHealthAlone(t *testing.T) {
	m := newMesh(t)
	pair := certtest.New(t)
	log := &logged{}
	ended, stop := secured(t, m.directory, log, serverTLS(pair.Issue(t, "catalog"), mutual(pair)), meshlite.WithHealthListener("127.0.0.1:0"))
	defer stop()
	checked(t, m.directory, ended)
	_, address, _ := strings.Cut(log.line("msg=serving"), "gRPC in plaintext at ")
	address, _, _ = strings.Cut(address, `"`)
	_, conn := m.client("passthrough:///" + address)
	health := healthv1.NewHealthClient(conn)
	if answer, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("the health is %v, %v", answer, err)
	}
	watch, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a watch gets %v, want Unimplemented", err)
	}
	if _, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("the catalog gets %v, want Unimplemented", err)
	}
}

// Case G6
func TestMistakesOfTheHealthCheckAreErrorsAtOnce(t *testing.T) {
	secure := meshlite.WithTransportCredentials(insecure.NewCredentials())
	for name, test := range map[string]struct {
		opts []meshlite.ServerOption
		want []string
	}{
		"name and skip":      {[]meshlite.ServerOption{secure, meshlite.WithRegistration(catalog.Registration{CheckServerName: "a", CheckSkipVerify: true})}, []string{"CheckServerName", "CheckSkipVerify"}},
		"listener and TTL":   {[]meshlite.ServerOption{secure, meshlite.WithHealthListener(""), meshlite.WithRegistration(catalog.Registration{TTL: time.Minute})}, []string{"WithHealthListener", "TTL 1m0s"}},
		"plaintext and name": {[]meshlite.ServerOption{meshlite.WithPlaintext(), meshlite.WithRegistration(catalog.Registration{CheckServerName: "a"})}, []string{"CheckServerName", "WithPlaintext"}},
		"plaintext and skip": {[]meshlite.ServerOption{meshlite.WithPlaintext(), meshlite.WithRegistration(catalog.Registration{CheckSkipVerify: true})}, []string{"CheckSkipVerify", "WithPlaintext"}},
		"no address":         {[]meshlite.ServerOption{secure, meshlite.WithHealthListener("here")}, []string{"WithHealthListener", `"here"`, "host:port"}},
	} {
		t.Run(name, func(t *testing.T) {
			mustExplain(t, test.want, func() error { _, err := meshlite.NewServer("catalog", test.opts...); return err })
		})
	}
}

// A real Consul finds what the self-check has found: it, too, takes SSL_CERT_FILE for
// the system's roots.
//
// Case G6
func TestARealConsulChecksAsTheSelfCheckHasProven(t *testing.T) {
	private := certtest.New(t)
	roots := t.TempDir() + "/roots.pem"
	if err := os.WriteFile(roots, trusted.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	agent := agenttest.Start(t)
	for name, test := range map[string]struct {
		opts []meshlite.ServerOption
		says string
	}{
		"name of the service": {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "catalog"))}, `verified for \"catalog\"`},
		"private authority":   {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"))}, "the certificate is not verified: tls: "},
		"mutual":              {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private))}, "three times in 15s"},
		"mutual, listener":    {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(private)), meshlite.WithHealthListener("")}, "gRPC in plaintext at 127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			directory, err := consul.New(consul.Config{Address: agent.Address, Logger: silent})
			if err != nil {
				t.Fatal(err)
			}
			defer directory.Close()
			log := &logged{}
			ended, stop := secured(t, directory, log, test.opts...)
			defer stop()
			if c := checked(t, directory, ended); c.Status != api.HealthPassing {
				t.Errorf("Consul's check says %v: %q, want passing", c.Status, c.Output)
			}
			if line := log.line("msg=serving"); !strings.Contains(line, test.says) {
				t.Errorf("the log says %q, want %q in it", line, test.says)
			}
		})
	}
}
