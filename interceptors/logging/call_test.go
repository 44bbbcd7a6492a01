package logging_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/logging"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func chain(t *testing.T, side interceptors.Side, policy *policyv1.MethodPolicy, concerns ...interceptors.Concern) *interceptors.Chained {
	t.Helper()
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Default: policy})
	if err != nil {
		t.Fatal(err)
	}
	chained, err := interceptors.Chain(side, policies, concerns...)
	if err != nil {
		t.Fatal(err)
	}
	return chained
}

func only(t *testing.T, log *lines) map[string]any {
	t.Helper()
	all := log.all(t)
	if len(all) != 1 {
		t.Fatalf("lines %v, want one", all)
	}
	return all[0]
}

// Services of gRPC's own have no policy.
const getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet"

var shop = &grpc.UnaryServerInfo{FullMethod: getSweet}

// Case logs
func TestLinesHaveTheCacheResult(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	answers, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	call := chain(t, interceptors.Client, &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{
		Ttl: proto.String("1h"), AllowSideEffects: proto.Bool(true), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
	}}, l, answers).UnaryClient()
	for _, want := range []string{"miss", "hit"} {
		err := call(t.Context(), getSweet, &catalogv1.GetSweetRequest{Id: "a"}, &catalogv1.GetSweetResponse{}, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				attempt.FromContext(ctx).SetPicked(&attempt.Instance{ID: "catalog-1", Address: "192.0.2.1:80"})
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		one := only(t, log)
		_, attempted := one["attempts"]
		if one["cache"] != want || attempted != (want == "miss") || (one["instance"] == "catalog-1") != (want == "miss") {
			t.Errorf("%v, want %s", one, want)
		}
	}
}

// Case logs
func TestLinesHaveTheRoute(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	chained := chain(t, interceptors.Client, nil, l)
	route := func(ctx context.Context) {
		attempt.FromContext(ctx).SetRoute(&attempt.Route{Name: "route 1", Arm: "v2", Target: "v2.catalog"})
	}
	want := func(kind string) {
		t.Helper()
		if one := only(t, log); one["route"] != "route 1" || one["arm"] != "v2" {
			t.Errorf("%v of a %s call, want its route and arm", one, kind)
		}
	}
	err := chained.UnaryClient()(t.Context(), getSweet, &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{}, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			route(ctx)
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	want("unary")
	_, err = chained.StreamClient()(t.Context(), &grpc.StreamDesc{}, nil, getSweet,
		func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			route(ctx)
			return nil, status.Error(codes.Unavailable, "gone")
		})
	if err == nil {
		t.Fatal("the stream was opened")
	}
	want("streaming")
}

// A line of a server has what the caller's certificate proves, and nothing that a caller
// merely says of itself.
func TestLinesHaveWhoCalls(t *testing.T) {
	spiffe := &url.URL{Scheme: "spiffe", Host: "shop.example", Path: "/storefront"}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "storefront"}, DNSNames: []string{"storefront.internal"}}
	verified := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	for name, test := range map[string]struct {
		info credentials.AuthInfo
		want any
	}{
		"SPIFFE id":    {credentials.TLSInfo{State: verified, SPIFFEID: spiffe}, "spiffe://shop.example/storefront"},
		"names":        {credentials.TLSInfo{State: verified}, `subject "CN=storefront" names ["storefront.internal"]`},
		"not verified": {credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}, nil},
		"no TLS":       {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l, log := build(t, slog.LevelDebug)
			ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}, AuthInfo: test.info})
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("caller", "admin"))
			_, _ = l.UnaryServerInterceptor()(ctx, nil, shop, answer)
			if one := only(t, log); one["caller"] != test.want || one["peer"] != "192.0.2.1:80" {
				t.Errorf("%v, want the caller %v", one, test.want)
			}
		})
	}
}

// Who calls is as the callers say, whatever the certificate proves. A function of theirs
// that panics costs the line its field, and not the process.
func TestLinesHaveWhoCallsAsDeclared(t *testing.T) {
	for name, test := range map[string]struct {
		identity func(context.Context) (string, bool)
		want     any
	}{
		"declared": {func(context.Context) (string, bool) { return "alice", true }, "alice"},
		"nobody":   {func(context.Context) (string, bool) { return "", false }, nil},
		"panics":   {func(context.Context) (string, bool) { panic("no identity") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			callers, err := caller.New(caller.WithIdentity(test.identity), caller.WithLoggedIdentity())
			if err != nil {
				t.Fatal(err)
			}
			l, log := build(t, slog.LevelDebug, logging.WithCallers(callers))
			if _, err := l.UnaryServerInterceptor()(t.Context(), nil, shop, answer); err != nil {
				t.Error(err)
			}
			if one := only(t, log); one["caller"] != test.want {
				t.Errorf("%v, want the caller %v", one, test.want)
			}
		})
	}
}

// Case logs
func TestLinesHaveTheLimitThatDecided(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	limiter, err := ratelimit.New()
	if err != nil {
		t.Fatal(err)
	}
	serve := chain(t, interceptors.Server, &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{
		{Name: "all", Limit: proto.Uint64(1), Period: proto.String("1h")},
	}}, l, limiter).UnaryServer()
	for _, want := range []string{"admitted", "refused"} {
		_, _ = serve(t.Context(), nil, shop, answer)
		if one := only(t, log); one["limit"] != "all" || one["limit_result"] != want || one["level"] != "DEBUG" {
			t.Errorf("%v, want %s", one, want)
		}
	}
}

// A handler refused for want of a place fails at warn, so its line has the reason with debug off.
//
// Case logs
func TestLinesHaveTheReasonOfFullServers(t *testing.T) {
	l, log := build(t, slog.LevelWarn)
	limiter, err := concurrency.New()
	if err != nil {
		t.Fatal(err)
	}
	serve := chain(t, interceptors.Server, &policyv1.MethodPolicy{Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(1)}}, l, limiter).UnaryServer()
	_, _ = serve(t.Context(), nil, shop, func(ctx context.Context, _ any) (any, error) {
		_, err := serve(t.Context(), nil, shop, answer)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the second call ends with %v", err)
		}
		return nil, nil
	})
	if one := only(t, log); one["limit"] != "concurrency" || one["limit_result"] != "refused" || one["level"] != "WARN" {
		t.Errorf("%v", one)
	}
}

// Whatever becomes of a call that was cancelled is the caller's affair.
//
// Case logs
func TestCancelledCallsAreNoFailures(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, code := range []codes.Code{codes.Canceled, codes.Unavailable, codes.DeadlineExceeded, codes.Unknown} {
		_ = client(ctx, l, status.Error(code, "too late"))
		_, _ = server(ctx, l, status.Error(code, "too late"))
	}
	all := log.all(t)
	for _, one := range all {
		if one["level"] != "DEBUG" {
			t.Errorf("%v", one)
		}
	}
	if len(all) != 8 {
		t.Errorf("%d lines, want 8", len(all))
	}
	_ = client(t.Context(), l, context.DeadlineExceeded)
	if one := only(t, log); one["level"] != "WARN" {
		t.Errorf("%v", one)
	}
}

// Recovery has logged a panic with its stack. What nobody recovers from is a failure.
//
// Case logs
func TestAPanicIsLoggedOnce(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	recovered, err := recovery.New(recovery.WithLogger(slog.New(slog.NewJSONHandler(log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	panics := func(context.Context, any) (any, error) { panic("no") }
	_, err = chain(t, interceptors.Server, nil, l, recovered).UnaryServer()(t.Context(), nil, info, panics)
	if status.Code(err) != codes.Internal {
		t.Errorf("the call ends with %v", err)
	}
	err = chain(t, interceptors.Client, nil, l, recovered).UnaryClient()(t.Context(), method, nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic("no") })
	if status.Code(err) != codes.Internal {
		t.Errorf("the call ends with %v", err)
	}
	all := log.all(t)
	if len(all) != 4 {
		t.Fatalf("lines %v", all)
	}
	for i, one := range all {
		if want := []string{"ERROR", "DEBUG"}[i%2]; one["level"] != want || i%2 == 1 && one["code"] != "Internal" {
			t.Errorf("line %d: %v, want it at %s", i, one, want)
		}
	}

	for name, call := range map[string]func(){
		"server": func() { _, _ = l.UnaryServerInterceptor()(t.Context(), nil, info, panics) },
		"stream of a server": func() {
			_ = l.StreamServerInterceptor()(l, stream{t.Context()}, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { panic("no") })
		},
		"stream of a client": func() {
			_, _ = l.StreamClientInterceptor()(t.Context(), &grpc.StreamDesc{}, nil, method,
				func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
					panic("no")
				})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			call()
		}()
		if one := only(t, log); one["level"] != "WARN" || one["code"] != "Internal" {
			t.Errorf("%s: %v", name, one)
		}
	}
}

// Case logs
func TestLinesHaveTheTrace(t *testing.T) {
	sampled, id := true, "4bf92f3577b34da6a3ce929d0e0e4736"
	l, log := build(t, slog.LevelDebug, logging.WithTraceFromContext(func(context.Context) (string, bool) {
		if id == "panic" {
			panic("no")
		}
		return id, sampled
	}))
	_ = client(t.Context(), l, nil)
	if one := only(t, log); one["trace_id"] != id {
		t.Errorf("%v", one)
	}
	for _, junk := range []string{"", "panic", strings.Repeat("a", 65), "\xff"} {
		id = junk
		_ = client(t.Context(), l, nil)
		if one := only(t, log); one["trace_id"] != nil {
			t.Errorf("%q: %v", junk, one)
		}
	}
	id, sampled = "kept by nobody", false
	_ = client(t.Context(), l, nil)
	if one := only(t, log); one["trace_id"] != nil {
		t.Errorf("%v", one)
	}
}

// X12: neither messages nor metadata nor details, nor what callers' mistakes quote.
//
// Case X12 (logs): No line has messages, metadata, details or what callers' mistakes quote;
// texts of others are cut.
func TestNoLineHasASecret(t *testing.T) {
	const secret = "sherbet"
	l, log := build(t, slog.LevelDebug)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", secret, secret, "x")
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", secret, "x-user", secret))
	request := &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: []byte(secret)}}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		text := "no entry for " + secret
		if logging.Level(code) == slog.LevelWarn {
			text = "the shelf fell"
		}
		s, err := status.New(code, text).WithDetails(&errdetails.DebugInfo{Detail: secret})
		if err != nil {
			s = status.New(code, text) // OK has none
		}
		_ = l.UnaryClientInterceptor()(ctx, method, request, request, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return s.Err() })
		_, _ = l.UnaryServerInterceptor()(ctx, request, info, func(context.Context, any) (any, error) { return request, s.Err() })
		failed := logging.Level(code) == slog.LevelWarn
		written := log.all(t)
		if len(written) != 2 { // or nothing is shown by their lack of a secret
			t.Errorf("%v: %d lines, want one of the client and one of the server", code, len(written))
		}
		for _, one := range written {
			if (one["error"] == "the shelf fell") != failed || (one["error"] != nil) != failed {
				t.Errorf("%v: %v", code, one)
			}
			for key, value := range one {
				if text, ok := value.(string); ok && strings.Contains(text, secret) {
					t.Errorf("%v: %s is %q", code, key, text)
				}
			}
		}
	}
	l, log = build(t, slog.LevelDebug, logging.WithErrorText(func(codes.Code) bool { return false }))
	_ = client(t.Context(), l, status.Error(codes.Internal, secret))
	if one := only(t, log); one["error"] != nil {
		t.Errorf("%v", one)
	}
}

// Case X12 (logs)
func TestNamesThatArePeersToChooseAreCut(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	_, _ = l.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/" + strings.Repeat("é", 1<<20)}, answer)
	if text, _ := only(t, log)["method"].(string); len(text) > 600 {
		t.Errorf("%d bytes of the name are logged", len(text))
	}
}

// counted is a stream of a client that has had so many messages.
type counted struct {
	grpc.ClientStream
	left int
	err  error
}

func (*counted) SendMsg(any) error { return nil }

func (c *counted) RecvMsg(any) error {
	if c.left == 0 {
		return c.err
	}
	c.left--
	return nil
}

// A stream has one line when it ends, whoever reports the end, with its messages.
//
// Case logs
func TestStreamsHaveOneLineWithTheirMessages(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	for name, test := range map[string]struct {
		desc     grpc.StreamDesc
		stream   counted
		onFinish bool // gRPC reports the end, too
		received float64
		code     string
	}{
		"until its end":             {grpc.StreamDesc{ServerStreams: true}, counted{left: 3, err: io.EOF}, true, 3, "OK"},
		"answered in gRPC's place":  {grpc.StreamDesc{ServerStreams: true}, counted{left: 2, err: io.EOF}, false, 2, "OK"},
		"broken":                    {grpc.StreamDesc{ServerStreams: true}, counted{left: 1, err: status.Error(codes.DataLoss, "no")}, true, 1, "DataLoss"},
		"broken by no status":       {grpc.StreamDesc{ServerStreams: true}, counted{err: errors.New("no")}, false, 0, "Unknown"},
		"one answer":                {grpc.StreamDesc{ClientStreams: true}, counted{left: 1}, true, 1, "OK"},
		"one answer in its place":   {grpc.StreamDesc{ClientStreams: true}, counted{left: 1}, false, 1, "OK"},
		"one answer that is broken": {grpc.StreamDesc{ClientStreams: true}, counted{err: status.Error(codes.Internal, "no")}, true, 0, "Internal"},
	} {
		t.Run(name, func(t *testing.T) {
			finish := func(error) {}
			s, err := l.StreamClientInterceptor()(t.Context(), &test.desc, nil, method,
				func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					if test.onFinish {
						finish = opts[0].(grpc.OnFinishCallOption).OnFinish
					}
					return &test.stream, nil
				})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_ = s.SendMsg(nil)
			}
			for err = nil; err == nil; {
				if !test.desc.ServerStreams { // gRPC looks for the end before it gives the one message
					finish(test.stream.err)
				}
				if err = s.RecvMsg(nil); !test.desc.ServerStreams {
					break
				}
			}
			finish(err)
			one := only(t, log)
			if one["sent"] != 2.0 || one["received"] != test.received || one["code"] != test.code {
				t.Errorf("%v, want %v received and %s", one, test.received, test.code)
			}
		})
	}
	_, _ = l.StreamClientInterceptor()(t.Context(), &grpc.StreamDesc{}, nil, method,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, status.Error(codes.Unavailable, "nobody")
		})
	if one := only(t, log); one["code"] != "Unavailable" {
		t.Errorf("%v", one)
	}
}
