package meshlite_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/certtest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// greeter answers with the subject and the sweet.
type greeter struct {
	catalogv1.UnimplementedCatalogServiceServer
}

func (greeter) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	subject := strings.Join(metadata.ValueFromIncomingContext(ctx, caller.SubjectKey), ",")
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId(), Name: subject}}, nil
}

// gatewayAddress is that of peers who are trusted.
const gatewayAddress = "127.0.0.2"

// backend is a server behind gateways, with an answer cache and a limit by identity.
type backend struct {
	t       *testing.T
	cache   *cache.Cache
	address string
	client  credentials.TransportCredentials // of the gateway
}

func newBackend(t *testing.T, limit uint64) *backend {
	t.Helper()
	trusted := caller.WithTrustedPrefixes(netip.MustParsePrefix(gatewayAddress + "/32"))
	return newSecuredBackend(t, limit, trusted, insecure.NewCredentials(), insecure.NewCredentials())
}

func newSecuredBackend(t *testing.T, limit uint64, trusted caller.Option, own, client credentials.TransportCredentials) *backend {
	t.Helper()
	callers, err := caller.New(caller.WithForwardedSubject(), trusted)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cache.New(cache.WithCallers(callers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(answers.Close)
	limiter, err := ratelimit.New(ratelimit.WithCallers(callers))
	if err != nil {
		t.Fatal(err)
	}
	policies := forwardedPolicies(t, policyv1.Side_SIDE_SERVER, &policyv1.RateLimitRule{
		Name: "each", Limit: &limit, Period: proto.String("1h"), MissingKey: policyv1.MissingKey_MISSING_KEY_REFUSE,
		Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Identity{Identity: &policyv1.IdentityKey{}}},
	})
	chain, err := interceptors.Chain(interceptors.Server, policies, limiter, answers)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(chain.ServerOptions(), grpc.Creds(own))...)
	catalogv1.RegisterCatalogServiceServer(server, greeter{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return &backend{t, answers, listener.Addr().String(), client}
}

// forwardedPolicies keeps private answers for an hour.
func forwardedPolicies(t *testing.T, side policyv1.Side, limits ...*policyv1.RateLimitRule) *interceptors.Policies {
	t.Helper()
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache:      &policyv1.CacheRule{Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE, Side: side},
		RateLimits: limits,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return policies
}

// from is a client of the backend with a source address.
func (b *backend) from(address string, opts ...grpc.DialOption) catalogv1.CatalogServiceClient {
	b.t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := grpc.NewClient("passthrough:///"+b.address, append(opts,
		grpc.WithTransportCredentials(b.client), grpc.WithAuthority("catalog"),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", target)
		}))...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

func onBehalf(t *testing.T, subject string) context.Context {
	if subject == "" {
		return t.Context()
	}
	return metadata.AppendToOutgoingContext(t.Context(), caller.SubjectKey, subject)
}

// Two users behind one gateway, in parallel: each has answers and a limit of its own, in the
// server's cache and in that of the gateway's channel.
//
// Case C1
func TestUsersBehindOneGatewayAreNotMixedUp(t *testing.T) {
	t.Run("by its network", func(t *testing.T) { checkUsers(t, newBackend(t, usersLimit)) })
	t.Run("by its SPIFFE id", func(t *testing.T) {
		authority := certtest.New(t)
		mesh := func(service string) *identity.Credentials {
			leaf := authority.IssueID(t, time.Hour, "spiffe://mesh.consul/ns/default/dc/dc1/svc/"+service)
			current, err := identity.NewSnapshot(leaf, []*x509.Certificate{authority.Certificate()})
			if err != nil {
				t.Fatal(err)
			}
			source := &identity.Feed{}
			source.Publish(current)
			mtls, err := identity.New(source)
			if err != nil {
				t.Fatal(err)
			}
			return mtls
		}
		trusted := caller.WithTrustedIdentities("spiffe://*/ns/default/dc/dc1/svc/gateway")
		b := newSecuredBackend(t, usersLimit, trusted, mesh("catalog"), mesh("gateway"))
		checkUsers(t, b)
		// Other services are who they are, whatever they forward: each has answers of its own.
		hits := b.cache.Stats().Counts.Hits
		for _, service := range []string{"web", "ops", "web"} {
			b.client = mesh(service)
			if _, err := b.from(gatewayAddress).GetSweet(onBehalf(t, "alice"), &catalogv1.GetSweetRequest{Id: "x"}); err != nil {
				t.Errorf("%s: %v", service, err)
			}
		}
		if c := b.cache.Stats().Counts; c.Misses != 42 || c.Hits != hits+1 {
			t.Errorf("%+v, want a miss each for web and ops, and a hit for web", c)
		}
	})
}

const usersLimit = 40

func checkUsers(t *testing.T, b *backend) {
	t.Helper()
	const limit, sweets = usersLimit, 60
	forwarded, err := caller.New(caller.WithForwardedSubject())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := cache.New(cache.WithCallers(forwarded))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	plain := b.from(gatewayAddress)
	caching := b.from(gatewayAddress, grpc.WithUnaryInterceptor(kept.UnaryClientInterceptor(forwardedPolicies(t, policyv1.Side_SIDE_CLIENT))))

	var running sync.WaitGroup
	admitted := map[string]*[2]int{"alice": {}, "bob": {}}
	for subject, counts := range admitted {
		running.Go(func() {
			for i := range sweets {
				for n, client := range []catalogv1.CatalogServiceClient{plain, caching} {
					reply, err := client.GetSweet(onBehalf(t, subject), &catalogv1.GetSweetRequest{Id: fmt.Sprint(n, i%10)})
					switch {
					case status.Code(err) == codes.ResourceExhausted:
					case err != nil:
						t.Error(err)
					case reply.GetSweet().GetName() != subject:
						t.Errorf("%s is given the answer of %q", subject, reply.GetSweet().GetName())
					default:
						counts[n]++
					}
				}
			}
		})
	}
	running.Wait()
	for subject, counts := range admitted {
		// The channel's cache answers 50 of 60; what it asks for counts at the server.
		if counts[0]+10 != limit || counts[1] != sweets {
			t.Errorf("%s: %v were admitted, want %d without the channel's cache and %d with it", subject, *counts, limit-10, sweets)
		}
	}
	if c := b.cache.Stats().Counts; c.Hits == 0 || c.Misses != 40 {
		t.Errorf("the server's cache: %+v, want 20 misses for each", c)
	}
	if c := kept.Stats().Counts; c.Misses != 20 || c.Hits != 100 {
		t.Errorf("the channel's cache: %+v, want 10 misses and 50 hits for each", c)
	}
}

// A gateway that calls for nobody has no identity: nothing private is kept for it, on either
// side.
func TestNothingPrivateIsKeptForNobody(t *testing.T) {
	b := newBackend(t, 1000)
	forwarded, err := caller.New(caller.WithForwardedSubject())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := cache.New(cache.WithCallers(forwarded))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	client := b.from("127.0.0.3", grpc.WithUnaryInterceptor(kept.UnaryClientInterceptor(forwardedPolicies(t, policyv1.Side_SIDE_CLIENT))))
	gateway := b.from(gatewayAddress)
	for range 3 {
		_, _ = client.GetSweet(onBehalf(t, ""), &catalogv1.GetSweetRequest{Id: "x"})
		_, _ = client.GetSweet(metadata.AppendToOutgoingContext(t.Context(), caller.SubjectKey, ""), &catalogv1.GetSweetRequest{Id: "x"})
		if _, err := gateway.GetSweet(onBehalf(t, ""), &catalogv1.GetSweetRequest{Id: "x"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("the limit by identity finds one: %v", err)
		}
	}
	if c := kept.Stats().Counts; c.Bypassed != 6 || c.Hits+c.Misses != 0 {
		t.Errorf("the client's cache: %+v, want all bypassed", c)
	}
	if c := b.cache.Stats().Counts; c.Hits+c.Misses != 0 {
		t.Errorf("the server's cache: %+v, want nothing kept", c)
	}
}

// Whoever is no gateway cannot call as somebody else: it gets no answer that is kept for
// alice, and uses up none of her limit.
func TestAnUntrustedPeersSubjectIsIgnored(t *testing.T) {
	b := newBackend(t, 2)
	gateway, stranger := b.from(gatewayAddress), b.from("127.0.0.3")
	var got []codes.Code
	for _, client := range []catalogv1.CatalogServiceClient{gateway, stranger, stranger, stranger, gateway, gateway} {
		_, err := client.GetSweet(onBehalf(t, "alice"), &catalogv1.GetSweetRequest{Id: "x"})
		got = append(got, status.Code(err))
	}
	if want := []codes.Code{codes.OK, codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument, codes.OK, codes.ResourceExhausted}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if c := b.cache.Stats().Counts; c.Hits != 1 || c.Misses != 1 {
		t.Errorf("the server's cache: %+v, want alice's answers only", c)
	}
}
