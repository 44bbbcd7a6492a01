package authz_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// proven is a transport whose peers have proven to be a service.
type proven struct {
	credentials.TransportCredentials
	t      testing.TB
	spiffe string
}

func (p proven) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, verified(p.t, p.spiffe), nil
}

const listen = "/shop.Feed/Listen"

// feed serves streams and calls of a service with one method each.
func feed(handler grpc.StreamHandler) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "shop.Feed", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		{StreamName: "Listen", Handler: handler, ServerStreams: true, ClientStreams: true},
	}}
}

// served runs a server that a service calls over one connection.
func served(t testing.TB, by string, handler grpc.StreamHandler, concerns ...interceptors.Concern) *grpc.ClientConn {
	t.Helper()
	return servedUnder(t, policiesOf(t, nil), by, handler, concerns...)
}

func servedUnder(t testing.TB, policies *interceptors.Policies, by string, handler grpc.StreamHandler, concerns ...interceptors.Concern) *grpc.ClientConn {
	t.Helper()
	chain, err := interceptors.Chain(interceptors.Server, policies, concerns...)
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(append(chain.ServerOptions(), grpc.Creds(proven{insecure.NewCredentials(), t, id(by)}))...)
	server.RegisterService(feed(handler), nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///feed", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

func open(t testing.TB, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, listen)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// watched is an authorizer over a simulated agent.
func watched(t *testing.T, log *journal) (*authz.Authorizer, *consultest.Server) {
	t.Helper()
	agent := consultest.New(consultest.WithDefaultIntentionPolicy("deny"))
	t.Cleanup(agent.Close)
	directory, err := consul.New(consul.Config{Transport: agent.Transport()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	if err := agent.SetIntentions("catalog", `[{"Name":"web","Action":"allow"},{"Name":"*","Action":"deny"}]`); err != nil {
		t.Fatal(err)
	}
	a := newAuthorizer(t, authz.WithWatcher(directory), authz.WithTrustDomain(domain), log.logger())
	synctest.Wait()
	return a, agent
}

// Case I7: A change from allow to deny acts on an open connection and an open stream within
// 1 s.
func TestADenialEndsOpenStreams(t *testing.T) {
	for name, handler := range map[string]grpc.StreamHandler{
		"waits for a message": func(_ any, s grpc.ServerStream) error { return s.RecvMsg(&emptypb.Empty{}) },
		"waits for its context": func(_ any, s grpc.ServerStream) error {
			<-s.Context().Done()
			return context.Cause(s.Context())
		},
		"sends to a reader that is slow": func(_ any, s grpc.ServerStream) error {
			for {
				if err := s.SendMsg(&emptypb.Empty{}); err != nil {
					return err
				}
			}
		},
		"ignores it": func(_ any, s grpc.ServerStream) error {
			<-s.Context().Done()
			time.Sleep(time.Minute)
			return errors.New("too late")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, ended := &journal{}, make(chan error, 1)
				a, agent := watched(t, log)
				conn := served(t, "web", func(srv any, s grpc.ServerStream) error {
					err := handler(srv, s)
					ended <- err
					return err
				}, a)
				stream := open(t, conn)
				synctest.Wait()
				if n := a.Stats().Streams; n != 1 {
					t.Fatalf("%d streams are open", n)
				}
				// A change that still allows it changes nothing.
				if err := agent.SetIntentions("catalog", `[{"Name":"web","Action":"allow"}]`); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				if s := a.Stats(); s.Streams != 1 || s.Intentions != 1 || s.Revoked != 0 {
					t.Fatalf("stats are %+v", s)
				}
				if err := agent.SetIntentions("catalog", `[{"Name":"web","Action":"deny"}]`); err != nil {
					t.Fatal(err)
				}
				changed := time.Now()
				var err error
				for err == nil {
					err = stream.RecvMsg(&emptypb.Empty{})
				}
				if took := time.Since(changed); status.Code(err) != codes.PermissionDenied || took > time.Second {
					t.Errorf("the stream ends with %v after %v", err, took)
				}
				<-ended
				again := open(t, conn)
				if err := again.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
					t.Errorf("the next call of the connection ends with %v", err)
				}
				synctest.Wait()
				if s := a.Stats(); s.Revoked != 1 || s.Streams != 0 || s.Denied.Rule != 2 {
					t.Errorf("stats are %+v\n%s", s, log)
				}
				_ = conn.Close()
				time.Sleep(2 * time.Minute) // what still runs ends
			})
		})
	}
}

// Case I8
func TestConsulAwayKeepsTheLastIntentions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &journal{}
		a, agent := watched(t, log)
		agent.SetReachable(false)
		time.Sleep(time.Hour)
		for service, want := range map[string]bool{"web": true, "ops": false} {
			if ran, _ := call(t, a, calledBy(t, id(service)), getSweet); ran != want {
				t.Errorf("%s: handler ran: %t, want %t", service, ran, want)
			}
		}
		if s := a.Stats(); !s.Failing {
			t.Errorf("stats are %+v", s)
		}
		agent.SetReachable(true)
		if err := agent.SetIntentions("catalog", `[{"Name":"ops","Action":"allow"}]`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if ran, _ := call(t, a, calledBy(t, id("ops")), getSweet); !ran {
			t.Errorf("the change after the outage is not in force:\n%s", log)
		}
	})
}

// A handler in a goroutine of its own panics, returns and exits as in gRPC's.
func TestHandlersOfStreamsEndAsTheyWould(t *testing.T) {
	seen := make(chan *recovery.Panic, 1)
	recovered, err := recovery.New(recovery.WithLogger(nil), recovery.WithObserver(interceptors.ObserverFunc(
		func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) { seen <- e.(*recovery.Panic) })))
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthorizer(t, authz.WithIntentions(allow("web")))
	conn := served(t, "web", func(any, grpc.ServerStream) error { panic("no sweets") }, recovered, a)
	if err := open(t, conn).RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.Internal {
		t.Errorf("a panic ends with %v", err)
	}
	if p := <-seen; p.Value != "no sweets" || len(p.Stack) == 0 {
		t.Errorf("the panic is reported as %v", p.Value)
	}
	conn = served(t, "web", func(any, grpc.ServerStream) error { return status.Error(codes.DataLoss, "x") }, a)
	if err := open(t, conn).RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.DataLoss {
		t.Errorf("an error ends with %v", err)
	}
	// gRPC leaves a stream open whose handler has left by runtime.Goexit: so does this.
	part, left := a.StreamServer(metaOf(listen)), make(chan struct{})
	go func() {
		defer close(left)
		_ = part(nil, fake{ctx: calledBy(t, id("web"))}, &grpc.StreamServerInfo{FullMethod: listen}, func(any, grpc.ServerStream) error {
			runtime.Goexit()
			return nil
		})
		t.Error("the interceptor has returned")
	}()
	<-left
	if n := a.Stats().Streams; n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

// fake is a stream outside of gRPC.
type fake struct {
	grpc.ServerStream
	ctx context.Context
}

func (f fake) Context() context.Context { return f.ctx }

// Streams open and end while intentions change all the time: none that is denied stays.
func TestStreamsAndChangesAtTheSameTime(t *testing.T) {
	watcher := newReports()
	a := newAuthorizer(t, authz.WithWatcher(watcher), (&journal{}).logger())
	<-watcher.watching
	watcher.report(allow("web"), nil)
	part := a.StreamServer(metaOf(listen))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				ctx, cancel := context.WithCancel(calledBy(t, id("web")))
				_ = part(nil, fake{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: listen}, func(_ any, s grpc.ServerStream) error {
					if !a.Stats().Failing { // some work
						runtime.Gosched()
					}
					return s.Context().Err()
				})
				cancel()
			}
		})
	}
	for range 100 {
		watcher.report(allow(), nil)
		watcher.report(allow("web"), nil)
	}
	watcher.report(allow(), nil)
	all.Wait()
	if s := a.Stats(); s.Streams != 0 {
		t.Errorf("stats are %+v", s)
	}
}
