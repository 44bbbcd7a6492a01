package meshlite_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/callstream"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// right has the service, whose methods may not run twice.
type right struct {
	testpb.UnimplementedTestServiceServer
	calls atomic.Int64
}

func (r *right) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	r.calls.Add(1)
	return &testpb.SimpleResponse{Username: "right"}, nil
}

func (r *right) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	r.calls.Add(1)
	n := int32(0)
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: n})
		}
		if err != nil {
			return err
		}
		n++
	}
}

func (r *right) StreamingOutputCall(request *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	r.calls.Add(1)
	for range request.GetResponseParameters() {
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	return nil
}

func (r *right) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	r.calls.Add(1)
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// place registers what listens at address, as an instance of "test" and of "catalog" that
// passes.
func (m *mesh) place(address string) {
	m.t.Helper()
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	for _, name := range []string{"test", "catalog"} {
		if err := m.agent.Register(consultest.Service{Name: name, ID: name + "-" + port, Address: host, Port: n}); err != nil {
			m.t.Fatal(err)
		}
	}
}

// placeGRPC runs a plain gRPC server.
func (m *mesh) placeGRPC(register func(*grpc.Server), opts ...grpc.ServerOption) {
	listener := listen(m.t)
	server := grpc.NewServer(opts...)
	register(server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	m.t.Cleanup(func() { server.Stop(); serving.Wait() })
	m.place(listener.Addr().String())
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// otherProgram is a server of this module without the service.
func otherProgram(m *mesh) {
	server, err := meshlite.NewServer("test", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(m.t)), meshlite.WithDrain(0, time.Second), meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Service: "catalog"}}))
	if err != nil {
		m.t.Fatal(err)
	}
	tests, catalogs := len(m.instances("test")), len(m.instances("catalog"))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	m.t.Cleanup(func() { cancel(); <-ended })
	for len(m.instances("test")) == tests || len(m.instances("catalog")) == catalogs {
		time.Sleep(5 * time.Millisecond)
	}
}

// plainHTTP answers HTTP/2 with one status, as a web server does that has nothing there.
func plainHTTP(code int) func(*mesh) {
	return func(m *mesh) {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "nothing here", code)
		}))
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		m.t.Cleanup(server.Close)
		m.place(server.Listener.Addr().String())
	}
}

// refusingStreams ends each stream with REFUSED_STREAM.
func refusingStreams(m *mesh) {
	listener := listen(m.t)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { defer conn.Close(); refuse(conn) })
		}
	})
	m.t.Cleanup(func() { listener.Close(); serving.Wait() })
	m.place(listener.Addr().String())
}

func refuse(conn net.Conn) {
	const headers, reset, settings, refusedStream = 1, 3, 4, 7
	frame := func(kind byte, flags byte, stream uint32, body ...byte) {
		head := append([]byte{0, 0, byte(len(body)), kind, flags}, binary.BigEndian.AppendUint32(nil, stream)...)
		_, _ = conn.Write(append(head, body...))
	}
	if _, err := io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	frame(settings, 0, 0)
	for {
		var head [9]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		if _, err := io.CopyN(io.Discard, conn, length); err != nil {
			return
		}
		switch kind, acknowledged := head[3], head[4]&1 == 1; {
		case kind == settings && !acknowledged:
			frame(settings, 1, 0)
		case kind == headers:
			frame(reset, 0, binary.BigEndian.Uint32(head[5:]), 0, 0, 0, refusedStream)
		}
	}
}

// kinds of calls, none of which may run twice.
var kinds = map[string]func(context.Context, *grpc.ClientConn) error{
	"unary": func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{})
		return err
	},
	"client stream": func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := testpb.NewTestServiceClient(conn).StreamingInputCall(ctx)
		if err != nil {
			return err
		}
		for range 5 {
			if err := stream.Send(&testpb.StreamingInputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		response, err := stream.CloseAndRecv()
		if err == nil && response.GetAggregatedPayloadSize() != 5 {
			err = fmt.Errorf("the server has %d messages of 5", response.GetAggregatedPayloadSize())
		}
		return err
	},
	"server stream": func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := testpb.NewTestServiceClient(conn).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{
			ResponseParameters: []*testpb.ResponseParameters{{}, {}, {}},
		})
		for n := 0; err == nil; n++ {
			if _, err = stream.Recv(); errors.Is(err, io.EOF) {
				if n != 3 {
					return fmt.Errorf("%d messages came, want 3", n)
				}
				return nil
			}
		}
		return err
	},
	"both": func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		for range 3 {
			if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
				return err // of a stream that has ended, Recv returns why
			}
			if _, err := stream.Recv(); err != nil {
				return err
			}
		}
		return stream.CloseSend()
	},
}

// freeRetries has a budget for every call, so that a machine which is slow to set the wrong
// instance apart fails none.
func freeRetries() *policyv1.MethodPolicy {
	budget := 1.0
	return &policyv1.MethodPolicy{Retry: &policyv1.RetryRule{Budget: &budget}}
}

// X17: An answer that proves that no handler ran (our own mark on unknown methods, HTTP
// 404, REFUSED_STREAM) is tried on another instance, whatever the method.
//
// Case X17: What no handler has seen is tried elsewhere, whatever the method; a bare
// UNIMPLEMENTED only if it may run twice.
func TestWhatNoHandlerHasSeenIsTriedElsewhere(t *testing.T) {
	for name, wrong := range map[string]func(*mesh){
		"another program": otherProgram,
		"HTTP 404":        plainHTTP(http.StatusNotFound),
		"HTTP 415":        plainHTTP(http.StatusUnsupportedMediaType),
		"REFUSED_STREAM":  refusingStreams,
	} {
		for kind, call := range kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				m := newMesh(t)
				server := &right{}
				for range 2 {
					m.placeGRPC(func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, server) })
				}
				wrong(m)
				conn := testConn(t, m, "test", meshlite.WithBalancer("round_robin"), meshlite.WithPolicy(&policyv1.ServicePolicy{Default: freeRetries()}))
				const calls = 60
				for n := range calls {
					if err := call(t.Context(), conn); err != nil {
						t.Fatalf("call %d: %v", n, err)
					}
					time.Sleep(5 * time.Millisecond) // answers are compared with time
				}
				if got := server.calls.Load(); got != calls {
					t.Errorf("handlers ran %d times for %d calls", got, calls)
				}
				for _, e := range endpoints(m, "test") {
					if e.Picks == 0 {
						t.Errorf("%s was never picked", e.Address)
					}
				}
			})
		}
	}
}

// asked is 1 for a call, and 0 for the question of a channel with call streams.
func asked(stream grpc.ServerStream) int64 {
	if method, _ := grpc.MethodFromServerStream(stream); callstream.Own(method) {
		return 0
	}
	return 1
}

// X17: ... a bare UNIMPLEMENTED only for what may run twice.
//
// Case X17
func TestABareUnimplementedIsTriedElsewhereOnlyIfItMayRunTwice(t *testing.T) {
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprint(twice), func(t *testing.T) {
			m := newMesh(t)
			for range 2 {
				m.placeGRPC(func(s *grpc.Server) {
					testpb.RegisterTestServiceServer(s, &right{})
					catalogv1.RegisterCatalogServiceServer(s, &shop{name: "right"})
				})
			}
			var ran atomic.Int64
			m.placeGRPC(func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
				ran.Add(asked(stream))
				return status.Error(codes.Unimplemented, "not by me")
			}))
			call := kinds["unary"]
			conn := testConn(t, m, "test", meshlite.WithBalancer("round_robin"))
			if twice { // the contract says that it has no side effects
				uncached, never := freeRetries(), "0s"
				uncached.Cache = &policyv1.CacheRule{Ttl: &never}
				conn = testConn(t, m, "catalog", meshlite.WithBalancer("round_robin"), meshlite.WithPolicy(&policyv1.ServicePolicy{Default: uncached}))
				call = func(ctx context.Context, conn *grpc.ClientConn) error {
					_, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "x"})
					return err
				}
			}
			failed := int64(0)
			for range 60 {
				switch err := call(t.Context(), conn); {
				case status.Code(err) == codes.Unimplemented:
					failed++
				case err != nil:
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond) // answers are compared with time
			}
			if ran.Load() == 0 || twice && failed != 0 || !twice && failed != ran.Load() {
				t.Errorf("%d calls failed of %d that the handler has refused", failed, ran.Load())
			}
		})
	}
}

// The words of a handler that repeats what it has received are no proof: its call is not
// made twice.
//
// Case X17
func TestWordsAreNoProof(t *testing.T) {
	for _, refusal := range []error{
		status.Error(codes.Unimplemented, `unexpected HTTP status code received from server: 404 (Not Found); transport: received unexpected content-type "text/plain"`),
		status.Error(codes.Unavailable, "stream terminated by RST_STREAM with error code: REFUSED_STREAM"),
		status.Error(codes.Unimplemented, "unknown service grpc.testing.TestService"),
	} {
		t.Run(status.Code(refusal).String(), func(t *testing.T) {
			m := newMesh(t)
			var ran atomic.Int64
			for range 2 {
				m.placeGRPC(func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
					ran.Add(asked(stream))
					return refusal
				}))
			}
			conn := testConn(t, m, "test")
			for kind, call := range kinds {
				before := ran.Load()
				if err := call(t.Context(), conn); status.Code(err) != status.Code(refusal) {
					t.Errorf("%s: %v", kind, err)
				}
				if got := ran.Load() - before; got != 1 {
					t.Errorf("%s: the handlers ran %d times", kind, got)
				}
			}
		})
	}
}

// F6: Everything failing: attempts <= 1.2 x calls. Here no instance has the service.
//
// Case X17
func TestWhatNobodyHasIsTriedElsewhereWithinTheBudget(t *testing.T) {
	for _, kind := range []string{"unary", "both"} {
		t.Run(kind, func(t *testing.T) {
			m := newMesh(t)
			var attempts atomic.Int64
			for range 3 {
				m.placeGRPC(func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
					attempts.Add(1)
					stream.SetTrailer(metadata.Pairs("meshlite-unhandled", "service"))
					return status.Error(codes.Unimplemented, "unknown service")
				}))
			}
			conn := testConn(t, m, "test")
			const calls = 1000
			for range calls {
				if err := kinds[kind](t.Context(), conn); status.Code(err) != codes.Unimplemented {
					t.Fatal(err)
				}
			}
			if got := attempts.Load(); got > calls*12/10 || got <= calls {
				t.Errorf("%d attempts for %d calls, want some more and 1.2 for each at most", got, calls)
			}
		})
	}
}

// P2b over real connections: the program without the service draws no calls, whatever the
// policy and the form of its answer.
//
// Case P2b
func TestTheWrongProgramDrawsNoCalls(t *testing.T) {
	for _, policy := range []string{leastrequest.Name, peakewma.Name} {
		for name, wrong := range map[string]func(*mesh){
			"another program": otherProgram,
			"gRPC's own":      func(m *mesh) { m.placeGRPC(func(*grpc.Server) {}) },
			"HTTP 404":        plainHTTP(http.StatusNotFound),
			"HTTP 403":        plainHTTP(http.StatusForbidden),
		} {
			t.Run(policy+"/"+name, func(t *testing.T) {
				m := newMesh(t)
				for range 2 {
					m.serve(&shop{name: "right", work: func() { time.Sleep(5 * time.Millisecond) }})
				}
				wrong(m)
				client := catalogv1.NewCatalogServiceClient(testConn(t, m, "catalog", meshlite.WithBalancer(policy), uncached()))
				var calling sync.WaitGroup
				var failed, calls atomic.Int64
				for range 16 {
					calling.Go(func() {
						for range 200 {
							calls.Add(1)
							if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}); err != nil {
								failed.Add(1)
							}
						}
					})
				}
				calling.Wait()
				if failed.Load() == 0 || failed.Load() > calls.Load()/2 { // without comparing it is four in five
					t.Errorf("%d of %d calls went to the wrong program: %+v", failed.Load(), calls.Load(), endpoints(m, "catalog"))
				}
			})
		}
	}
}

// testConn is a channel to a service that is connected to all instances.
func testConn(t *testing.T, m *mesh, service string, opts ...meshlite.ClientOption) *grpc.ClientConn {
	t.Helper()
	_, conn := m.client("consul:///"+service, opts...)
	conn.Connect()
	for {
		connected := 0
		for _, e := range endpoints(m, service) {
			if e.State == balancer.InRotation {
				connected++
			}
		}
		if connected >= len(m.instances(service)) {
			return conn
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// endpoints are those of service of the mesh's client, as its page shows them.
func endpoints(m *mesh, service string) (all []balancer.EndpointStats) {
	m.t.Helper()
	handler, err := m.runtime.Handler()
	if err != nil {
		m.t.Fatal(err)
	}
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, localRequest(http.MethodGet, "/debug/meshlite", nil))
	var shown struct{ Endpoints []resolver.Picks }
	if err := json.Unmarshal(page.Body.Bytes(), &shown); err != nil {
		m.t.Fatal(err)
	}
	for _, picks := range shown.Endpoints {
		if picks.Service == service {
			all = append(all, picks.Endpoints...)
		}
	}
	return all
}

// X2: A stream is not retried after its first message, whatever its end says.
//
// Case X2: A stream is not retried after its first message.
func TestAStreamStaysAfterItsFirstMessage(t *testing.T) {
	m := newMesh(t)
	var ran atomic.Int64
	for range 2 {
		m.placeGRPC(func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			ran.Add(1)
			stream.SetTrailer(metadata.Pairs("meshlite-unhandled", "method"))
			if err := stream.SendMsg(&testpb.StreamingOutputCallResponse{}); err != nil {
				return err
			}
			return status.Error(codes.Unimplemented, "no more")
		}))
	}
	stream, err := testpb.NewTestServiceClient(testConn(t, m, "test")).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented || ran.Load() != 1 {
		t.Errorf("%v after %d attempts, want the error of the first", err, ran.Load())
	}
}
