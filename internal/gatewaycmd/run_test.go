package gatewaycmd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/prototest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// output can be read while a gateway writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is a gateway.
type running struct {
	announced
	log *output
}

// start runs a gateway at a free port until the test ends, and returns once it serves.
func start(t *testing.T, args ...string) running {
	t.Helper()
	return startWhere(t, append(args, "--listen", "127.0.0.1:0")...)
}

// startWhere is start at the address of args or of the environment.
func startWhere(t *testing.T, args ...string) running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, log := &output{}, &output{}
	format := cli.JSON
	cmd := Command()
	cmd.Flags().VarP(&format, "output", "o", "")
	cmd.SetArgs(append(args, "--drain", "0s"))
	cmd.SetOut(out)
	cmd.SetErr(log)
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the gateway wrote:\n%s", log)
		}
	})
	r := running{log: log}
	within(t, "the gateway serves", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the gateway ended with %v:\n%s", err, log)
		default:
		}
		return json.Unmarshal([]byte(out.String()), &r.announced) == nil
	})
	return r
}

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// get makes a request with pairs of headers.
func get(t *testing.T, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// shop answers with the subject of the caller and the number of the call.
type shop struct {
	catalogv1.UnimplementedCatalogServiceServer
	calls atomic.Int32
	trace chan string // of a call, as its metadata has it
}

func (s *shop) GetSweet(ctx context.Context, in *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	subject := strings.Join(metadata.ValueFromIncomingContext(ctx, caller.SubjectKey), ",")
	if in.GetId() == "slow" { // as long as its caller waits
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case s.trace <- strings.Join(metadata.ValueFromIncomingContext(ctx, "traceparent"), ","):
	default:
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: in.GetId(), Name: subject, PricePence: uint32(s.calls.Add(1))}}, nil
}

// serve runs a server of the catalog, which believes the subjects of gateways on this host.
func serve(t *testing.T, agent string, s *shop, policy *policyv1.ServicePolicy) {
	t.Helper()
	serveTo(t, agent, s, policy, caller.WithTrustedPrefixes(netip.MustParsePrefix("127.0.0.0/8")),
		func(*consul.Directory) meshlite.Option { return meshlite.WithPlaintext() })
}

// serveTo believes the subjects of those whom trusted names.
func serveTo(t *testing.T, agent string, s *shop, policy *policyv1.ServicePolicy, trusted caller.Option, secured func(*consul.Directory) meshlite.Option) {
	t.Helper()
	callers, err := caller.New(caller.WithForwardedSubject(), trusted)
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: callers})
	if err != nil {
		t.Fatal(err)
	}
	directory, err := consul.New(consul.Config{Address: agent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	server, err := meshlite.NewServer("catalog", secured(directory), meshlite.WithRuntime(runtime), meshlite.WithDirectory(directory),
		meshlite.WithListenAddress("127.0.0.1:0"), meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, time.Second), meshlite.WithPolicy(policy))
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server.GRPC(), s)
	reflection.Register(server.GRPC())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	// A gateway that asks Consul before it lists the server would believe that there is none.
	for {
		listed, err := directory.Entries(t.Context(), catalog.Query{Service: "catalog"})
		if err != nil {
			t.Fatal(err)
		}
		if len(listed) > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// writeContract writes the catalog's contract with another policy, as a descriptor set.
func writeContract(t *testing.T, policy *policyv1.ServicePolicy) (path string) {
	t.Helper()
	set := prototest.SetOf(catalogv1.File_sweetshop_catalog_v1_catalog_proto)
	options := &descriptorpb.ServiceOptions{}
	proto.SetExtension(options, policyv1.E_Service, policy)
	set.File[len(set.File)-1].Service[0].Options = options
	text, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "catalog.binpb")
	write(t, path, text)
	return path
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

const issuer = "https://login.example/"

// newKey makes a key and writes its public half as a JWKS.
func newKey(t *testing.T) (private ed25519.PrivateKey, jwks string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	jwks = filepath.Join(t.TempDir(), "keys.json")
	write(t, jwks, []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"k1","x":"`+base64.RawURLEncoding.EncodeToString(public)+`"}]}`))
	return private, jwks
}

// bearer is the header of a caller whose token ends in so long.
func bearer(t *testing.T, key ed25519.PrivateKey, subject string, left time.Duration) string {
	t.Helper()
	token := gojwt.NewWithClaims(gojwt.SigningMethodEdDSA, gojwt.MapClaims{"iss": issuer, "aud": "shop", "sub": subject, "exp": time.Now().Add(left).Unix()})
	token.Header["kid"] = "k1"
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + text
}

const getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet?id="

// Two users behind one gateway, by their tokens: each has answers of their own, in the gateway's
// cache and in the server's, and a limit of their own.
func TestUsersOfTokensAreKeptApart(t *testing.T) {
	for _, where := range []policyv1.Side{policyv1.Side_SIDE_CLIENT, policyv1.Side_SIDE_SERVER} {
		t.Run(where.String(), func(t *testing.T) {
			const most = 6
			policy := &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
				Cache: &policyv1.CacheRule{Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE, Side: where},
				RateLimits: []*policyv1.RateLimitRule{{
					Name: "user", Limit: proto.Uint64(most), Period: proto.String("24h"), Side: policyv1.Side_SIDE_SERVER,
					Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Identity{Identity: &policyv1.IdentityKey{}}},
				}},
			}}
			agent := agenttest.Start(t)
			s := &shop{}
			serve(t, agent.Address, s, policy)
			key, jwks := newKey(t)
			stranger, _ := newKey(t)
			g := start(t, "--plaintext", "catalog", "--http-addr", agent.Address, "--descriptors", "catalog="+writeContract(t, policy),
				"--jwt-jwks", jwks, "--jwt-issuer", issuer, "--jwt-audience", "shop", "--metrics-address", "")
			alice, bob := bearer(t, key, "alice", time.Hour), bearer(t, key, "bob", time.Hour)

			answers := map[string]string{}
			for range 2 { // made, and from a cache
				for name, token := range map[string]string{"alice": alice, "bob": bob} {
					// What a caller writes about itself is ignored.
					response, body := get(t, g.Address+getSweet+"x", "Authorization", token, "X-Meshlite-Subject", "mallory", "Grpc-Metadata-X-Meshlite-Subject", "mallory")
					if response.StatusCode != http.StatusOK || !strings.Contains(body, `"name":"`+name+`"`) || answers[name] != "" && answers[name] != body {
						t.Errorf("%s is answered with %s: %s; before: %s", name, response.Status, body, answers[name])
					}
					if control := response.Header.Get("Cache-Control"); !strings.HasPrefix(control, "private") {
						t.Errorf("Cache-Control is %q, want private", control)
					}
					answers[name] = body
				}
			}
			if n := s.calls.Load(); n != 2 {
				t.Errorf("%d calls of the handler, want one for each user", n)
			}
			for why, token := range map[string]string{
				"expired": bearer(t, key, "alice", -time.Hour), "forged": bearer(t, stranger, "alice", time.Hour), "no token": "Bearer x",
			} {
				if response, body := get(t, g.Address+getSweet+"x", "Authorization", token); response.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %s: %s, want 401", why, response.Status, body)
				}
			}
			// Nobody has no subject, whatever they write, and nothing of theirs is kept.
			for range 2 {
				before := s.calls.Load()
				if response, body := get(t, g.Address+getSweet+"x", "X-Meshlite-Subject", "alice"); response.StatusCode != http.StatusOK || strings.Contains(body, "alice") || s.calls.Load() != before+1 {
					t.Errorf("nobody is answered with %s: %s, by %d calls", response.Status, body, s.calls.Load()-before)
				}
			}
			// Each has the limit alone.
			for i := range most + 2 {
				response, _ := get(t, g.Address+getSweet+"y"+string(rune('a'+i)), "Authorization", alice)
				if i == most+1 && response.StatusCode != http.StatusTooManyRequests {
					t.Errorf("alice is answered with %s beyond the limit", response.Status)
				}
			}
			if response, body := get(t, g.Address+getSweet+"z", "Authorization", bob); response.StatusCode != http.StatusOK {
				t.Errorf("bob is answered with %s (%s), with most of the limit left", response.Status, body)
			}
		})
	}
}

// The same by mutual TLS with certificates of a real Consul: the server knows the gateway by its
// SPIFFE id, and lets each user call what is theirs. A gateway that it does not trust calls for
// nobody, although the same is allowed to it.
//
// Case C1
func TestUsersOfTokensHaveTheirOwnPermissions(t *testing.T) {
	const allow = policyv1.IntentionAction_INTENTION_ACTION_ALLOW
	may := []*policyv1.IntentionPermission{{Action: allow, Path: &policyv1.IntentionPermission_PathPrefix{PathPrefix: "/sweetshop.catalog.v1.CatalogService/Get"},
		Headers: []*policyv1.IntentionHeader{{Name: caller.SubjectKey, Match: &policyv1.IntentionHeader_Regex{Regex: "alice|carol"}}}}}
	policy := &policyv1.ServicePolicy{
		Default:    &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE, Side: policyv1.Side_SIDE_SERVER}},
		Intentions: &policyv1.Intentions{Sources: []*policyv1.SourceIntention{{Name: "gateway", Permissions: may}, {Name: "rogue", Permissions: may}}},
	}
	agent, s := agenttest.Start(t), &shop{}
	serveTo(t, agent.Address, s, policy, caller.WithTrustedIdentities("spiffe://*/ns/default/dc/dc1/svc/gateway"), func(directory *consul.Directory) meshlite.Option {
		source, err := directory.Identity("catalog")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(source.Close)
		mtls, err := identity.New(source)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(mtls.Close)
		return meshlite.WithTransportCredentials(mtls)
	})
	key, jwks := newKey(t)
	gateway := func(service string) running {
		return start(t, "--identity", service, "catalog", "--http-addr", agent.Address, "--descriptors", "catalog="+writeContract(t, policy),
			"--jwt-jwks", jwks, "--jwt-issuer", issuer, "--jwt-audience", "shop", "--metrics-address", "")
	}
	g, rogue := gateway("gateway"), gateway("rogue")
	answers := map[string]string{}
	for range 2 { // made, and from the server's cache
		for name, want := range map[string]int{"alice": http.StatusOK, "carol": http.StatusOK, "bob": http.StatusForbidden} {
			token := bearer(t, key, name, time.Hour)
			response, body := get(t, g.Address+getSweet+"x", "Authorization", token, "X-Meshlite-Subject", "alice")
			if response.StatusCode != want || strings.Contains(body, `"name":"`+name+`"`) != (want == http.StatusOK) || answers[name] != "" && answers[name] != body {
				t.Errorf("%s is answered with %s: %s, want %d; before: %s", name, response.Status, body, want, answers[name])
			}
			answers[name] = body
			if response, body := get(t, rogue.Address+getSweet+"x", "Authorization", token); response.StatusCode != http.StatusForbidden {
				t.Errorf("%s by a gateway that is not trusted: %s: %s, want 403", name, response.Status, body)
			}
		}
		if response, body := get(t, g.Address+getSweet+"x", "X-Meshlite-Subject", "alice"); response.StatusCode != http.StatusForbidden {
			t.Errorf("nobody is answered with %s: %s, want 403", response.Status, body)
		}
	}
	if n := s.calls.Load(); n != 2 {
		t.Errorf("%d calls of the handler, want one for alice and one for carol", n)
	}
}

// One trace goes from the headers of a request through the gateway to the service: with spans in
// between if the environment says where they go, and as it is without.
func TestATraceGoesThroughTheGateway(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, traced := range []bool{true, false} {
		t.Run(fmt.Sprint(traced), func(t *testing.T) {
			var got []string
			spans := collect(t, traced)
			t.Run("gateway", func(t *testing.T) { // whose end sends the spans
				agent := agenttest.Start(t)
				s := &shop{trace: make(chan string, 1)}
				serve(t, agent.Address, s, nil)
				g := start(t, "--plaintext", "catalog", "--http-addr", agent.Address, "--metrics-address", "")
				if response, body := get(t, g.Address+getSweet+"x", "Traceparent", "00-"+id+"-"+parent+"-01"); response.StatusCode != http.StatusOK {
					t.Fatalf("%s: %s", response.Status, body)
				}
				got = strings.Split(<-s.trace, "-")
			})
			if len(got) != 4 || got[1] != id || got[3] != "01" {
				t.Fatalf("the service has the parent %q, want one of trace %s", got, id)
			}
			if !traced && got[2] != parent {
				t.Errorf("the service has the parent %s, want that of the request, %s", got[2], parent)
			}
			if !traced {
				return
			}
			// From the parent that the service has up to that of the request.
			parents, name := map[string]string{}, ""
			for _, span := range spans() {
				if hex.EncodeToString(span.GetTraceId()) == id {
					parents[hex.EncodeToString(span.GetSpanId())] = hex.EncodeToString(span.GetParentSpanId())
					if hex.EncodeToString(span.GetParentSpanId()) == parent {
						name = span.GetName()
					}
				}
			}
			at, steps := got[2], 0
			for ; at != parent && steps <= len(parents); steps++ {
				at = parents[at]
			}
			if at != parent || steps < 2 || name != "GET /sweetshop.catalog.v1.CatalogService/GetSweet" {
				t.Errorf("the service is %d spans below the request, through %q and %v", steps, name, parents)
			}
		})
	}
}

// collect has the environment name a collector, which returns what it was sent.
func collect(t *testing.T, on bool) func() []*tracev1.Span {
	t.Helper()
	if !on {
		return nil
	}
	var mu sync.Mutex
	var all []*tracev1.Span
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request coltrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				all = append(all, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", server.URL)
	return func() []*tracev1.Span {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// A certificate that replaces the files is served without a restart; one that is broken is not,
// and is logged once.
func TestANewCertificateIsServedWithoutARestart(t *testing.T) {
	authority, dir := certtest.New(t), t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	issue := func(name string) { writePair(t, authority.Issue(t, name), cert, key) }
	issue("first")
	g := start(t, "--http", "web=/,http://127.0.0.1:1", "--tls-cert", cert, "--tls-key", key, "--metrics-address", "")
	address := strings.TrimPrefix(g.Address, "https://")
	served := func(name string) bool {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: authority.Roots, ServerName: name})
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	if !served("first") {
		t.Fatal("the first certificate is not served")
	}
	issue("second")
	within(t, "the second one is served", func() bool { return served("second") })
	write(t, key, []byte("broken"))
	const kept = "the one before stays"
	within(t, "the broken key is logged", func() bool { return served("second") && strings.Contains(g.log.String(), kept) })
	issue("third")
	within(t, "the third one is served", func() bool { return served("third") })
	if n := strings.Count(g.log.String(), kept); n != 1 {
		t.Errorf("the broken key is logged %d times", n)
	}
}
