package meshlite_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite"
)

// bounded is a server on listener that is in no directory, and a channel to it.
func bounded(t *testing.T, listener net.Listener, service testgrpc.TestServiceServer, opts ...meshlite.ServerOption) testgrpc.TestServiceClient {
	t.Helper()
	server, err := meshlite.NewServer("catalog", append([]meshlite.ServerOption{
		meshlite.WithPlaintext(), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t)),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	testgrpc.RegisterTestServiceServer(server, service)
	go func() { _ = server.GRPC().Serve(listener) }()
	t.Cleanup(server.GRPC().Stop)
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialListener(ctx, listener) })
	conn, err := grpc.NewClient("passthrough:///server", dial, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithIdleTimeout(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}

func dialListener(ctx context.Context, listener net.Listener) (net.Conn, error) {
	if memory, ok := listener.(*bufconn.Listener); ok {
		return memory.DialContext(ctx)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
}

// echo answers at once.
type echo struct {
	testgrpc.UnimplementedTestServiceServer
}

func (echo) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

func good(t *testing.T, client testgrpc.TestServiceClient) {
	t.Helper()
	if _, err := client.EmptyCall(t.Context(), &testgrpc.Empty{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("a good call: %v", err)
	}
}

// X7: 2,000 silent connections: each closed <= 5 s, no good call fails. Silent is also who
// stops within the preface, before the settings or, after the first call, for ever.
//
// Case X7: Silent connections are closed within 5 s and cost 10 KiB each at most; good calls
// go on.
func TestSilentConnectionsAreClosed(t *testing.T) {
	settings := func(t *testing.T) string {
		var frame bytes.Buffer
		if err := http2.NewFramer(&frame, nil).WriteSettings(); err != nil {
			t.Fatal(err)
		}
		return http2.ClientPreface + frame.String()
	}
	for name, test := range map[string]struct {
		n      int
		sent   func(*testing.T) string
		within time.Duration
	}{
		"nothing":             {2000, func(*testing.T) string { return "" }, 5 * time.Second},
		"a part of a preface": {50, func(*testing.T) string { return http2.ClientPreface[:10] }, 5 * time.Second},
		"a preface alone":     {50, func(*testing.T) string { return http2.ClientPreface }, 5 * time.Second},
		"a part of settings":  {50, func(t *testing.T) string { s := settings(t); return s[:len(s)-1] }, 5 * time.Second},
		"no answer to pings":  {50, settings, 50 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := bufconn.Listen(1 << 10)
				client := bounded(t, listener, echo{})
				good(t, client)
				begun := time.Now()
				var open sync.WaitGroup
				for range test.n {
					conn, err := listener.Dial()
					if err != nil {
						t.Fatal(err)
					}
					open.Go(func() {
						defer conn.Close()
						if _, err := io.WriteString(conn, test.sent(t)); err != nil {
							t.Error(err)
						}
						if _, err := io.Copy(io.Discard, conn); err != nil {
							t.Error(err)
						}
						if after := time.Since(begun); after > test.within {
							t.Errorf("closed after %v, want %v at most", after, test.within)
						}
					})
				}
				synctest.Wait()
				good(t, client)
				open.Wait()
				good(t, client)
			})
		})
	}
}

// An idle connection of a client that answers pings is closed too, and the next call
// connects anew.
//
// Case X7
func TestIdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var connections connectionCount
		client := bounded(t, bufconn.Listen(1<<10), echo{}, meshlite.WithServerOptions(grpc.StatsHandler(&connections)))
		good(t, client)
		time.Sleep(29 * time.Minute)
		good(t, client)
		if n := connections.Load(); n != 1 {
			t.Errorf("%d connections within 30 minutes, want one that is kept by its pings", n)
		}
		time.Sleep(31 * time.Minute)
		good(t, client)
		if n := connections.Load(); n != 2 {
			t.Errorf("%d connections, want a second one after 30 minutes without a call", n)
		}
	})
}

type connectionCount struct{ atomic.Int64 }

func (*connectionCount) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (*connectionCount) HandleRPC(context.Context, stats.RPCStats)                       {}
func (*connectionCount) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (c *connectionCount) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnBegin); ok {
		c.Add(1)
	}
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// X7: silent connections cost <= 10 KiB each. Both ends are in this process.
//
// Case X7
func TestSilentConnectionsCostLittle(t *testing.T) {
	const n = 500
	listener := listenTCP(t)
	client := bounded(t, listener, echo{}, meshlite.WithServerOptions(grpc.ConnectionTimeout(time.Hour)))
	good(t, client)
	before, goroutines := inUse(), runtime.NumGoroutine()
	for range n {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for runtime.NumGoroutine() < goroutines+n { // one waits for each preface
		time.Sleep(time.Millisecond)
	}
	good(t, client)
	if each := (inUse() - before) / n; each > 10<<10 {
		t.Errorf("%d bytes for each silent connection, want 10 KiB at most", each)
	}
}

func inUse() int64 {
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return int64(memory.HeapAlloc + memory.StackInuse)
}

// X8: 64 KiB of metadata is refused without growth, of unary calls and streams, whether
// the client obeys the setting or not. Calls of others go on.
//
// Case X8: 64 KiB of metadata is refused without growth.
func TestLargeMetadataIsRefused(t *testing.T) {
	listener := listenTCP(t)
	client := bounded(t, listener, echo{})
	with := func(n int) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "large", strings.Repeat("x", n))
	}
	if _, err := client.EmptyCall(with(12<<10), &testgrpc.Empty{}); err != nil {
		t.Errorf("12 KiB of metadata: %v", err)
	}
	if _, err := client.EmptyCall(with(64<<10), &testgrpc.Empty{}); err == nil {
		t.Error("64 KiB of metadata are taken")
	}
	stream, err := client.FullDuplexCall(with(64 << 10))
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) == codes.Unimplemented || err == nil {
		t.Errorf("64 KiB of metadata reach a stream: %v", err)
	}
	raw := rawClient(t, listener)
	if raw.settings[http2.SettingMaxHeaderListSize] != 16<<10 || raw.settings[http2.SettingMaxConcurrentStreams] != 1000 {
		t.Errorf("the settings are %v", raw.settings)
	}
	var before, after runtime.MemStats
	large := strings.Repeat("x", 15<<20)
	runtime.ReadMemStats(&before)
	for id := uint32(1); raw.open(id, "large", large) == nil; id += 2 {
		if id > 40 {
			t.Fatal("20 streams with 15 MiB of metadata each are open")
		}
	}
	good(t, client)
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc-before.TotalAlloc) - raw.encoded; grown > 1<<20 {
		t.Errorf("the server allocates %d bytes, want 1 MiB at most", grown)
	}
}

// X9: Running handlers <= MaxConcurrentStreams under rapid reset.
//
// Case X9: Running handlers of a connection stay within MaxConcurrentStreams under rapid
// reset.
func TestRapidResetRunsNoMoreHandlers(t *testing.T) {
	const most = 10
	d := newDeaf(t)
	listener := listenTCP(t)
	client := bounded(t, listener, d, meshlite.WithServerOptions(grpc.MaxConcurrentStreams(most)))
	raw := rawClient(t, listener)
	go func() { _, _ = io.Copy(io.Discard, raw.conn) }()
	for i := range 3 * most {
		id := uint32(2*i + 1)
		if err := raw.open(id); err != nil {
			t.Fatal(err)
		}
		if err := raw.WriteData(id, true, make([]byte, 5)); err != nil { // an empty message
			t.Fatal(err)
		}
		if i >= most {
			for range 5 { // an answer of another connection, while no place is free
				if _, err := client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); status.Code(err) != codes.Unimplemented {
					t.Fatalf("a good call: %v", err)
				}
			}
			d.release <- struct{}{}
		}
		<-d.entered
		if err := raw.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.most.Load(); n != most {
		t.Errorf("%d handlers ran at once, want %d", n, most)
	}
}

// rawConn writes frames as no gRPC client would.
type rawConn struct {
	*http2.Framer
	conn     net.Conn
	settings map[http2.SettingID]uint32
	encoded  int64 // bytes that encoding has allocated, at most
}

func rawClient(t *testing.T, listener net.Listener) *rawConn {
	t.Helper()
	conn, err := dialListener(t.Context(), listener)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw := &rawConn{http2.NewFramer(conn, conn), conn, map[http2.SettingID]uint32{}, 0}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := raw.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	frame, err := raw.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	_ = frame.(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error {
		raw.settings[s.ID] = s.Val
		return nil
	})
	return raw
}

// open begins a call of EmptyCall with metadata.
func (r *rawConn) open(id uint32, metadata ...string) error {
	return r.fields(id, false, append([]string{":method", "POST", ":scheme", "http", ":path", testgrpc.TestService_EmptyCall_FullMethodName,
		":authority", "server", "content-type", "application/grpc", "te", "trailers"}, metadata...))
}

// fields writes names and their values as a header list.
func (r *rawConn) fields(id uint32, last bool, fields []string) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	r.encoded += 8 * int64(block.Len()) // buffers that grow
	const most = 16 << 10
	first := block.Next(most)
	err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: block.Len() == 0, EndStream: last})
	for err == nil && block.Len() > 0 {
		part := block.Next(most)
		err = r.WriteContinuation(id, block.Len() == 0, part)
	}
	return err
}

// Health watches are exempt from limits, and bounded: on a connection, and in a server.
//
// Case X9
func TestHealthWatchesAreBounded(t *testing.T) {
	listener := listenTCP(t)
	var channels []healthv1.HealthClient
	bounded(t, listener, echo{}, meshlite.WithInfrastructureStreams(2, 3))
	for range 2 {
		conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		channels = append(channels, healthv1.NewHealthClient(conn))
	}
	watch := func(channel int) (end context.CancelFunc, code codes.Code) {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := channels[channel].Watch(ctx, &healthv1.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return cancel, status.Code(err)
	}
	want := func(what string, channel int, want codes.Code) context.CancelFunc {
		t.Helper()
		end, code := watch(channel)
		if code != want {
			t.Errorf("%s: %v, want %v", what, code, want)
		}
		return end
	}
	end := want("the first of a connection", 0, codes.OK)
	defer want("the second", 0, codes.OK)()
	defer want("one more than a connection has", 0, codes.ResourceExhausted)()
	defer want("the first of another", 1, codes.OK)()
	defer want("one more than the server has", 1, codes.ResourceExhausted)()
	if _, err := channels[0].Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("a check beside them: %v", err)
	}
	end()
	for { // until the server has seen it
		again, code := watch(1)
		defer again()
		if code == codes.OK {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, wrong := range [][2]int{{0, 1}, {1, 0}, {-1, -1}} {
		_, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithInfrastructureStreams(wrong[0], wrong[1]))
		if err == nil || !strings.Contains(err.Error(), "WithInfrastructureStreams") {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

// A server that sends a large header or trailer fails its own calls and fills no client.
// Who expects as much raises the bound.
func TestLargeMetadataOfAServerIsRefused(t *testing.T) {
	const size = 1 << 20
	for name, trailer := range map[string]bool{"header": false, "trailer": true} {
		for bound, option := range map[string][]meshlite.ClientOption{
			"default": nil,
			"raised":  {meshlite.WithDialOptions(grpc.WithMaxHeaderListSize(2 * size))},
		} {
			t.Run(name+" "+bound, func(t *testing.T) {
				server := newHostile(t, trailer, strings.Repeat("x", size))
				conn, err := meshlite.NewClient("passthrough:///"+server.listener.Addr().String(), append(option,
					meshlite.WithPlaintext(), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t)))...)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				var header, end metadata.MD
				_, err = testgrpc.NewTestServiceClient(conn).EmptyCall(t.Context(), &testgrpc.Empty{}, grpc.Header(&header), grpc.Trailer(&end))
				received := len(strings.Join(append(header["large"], end["large"]...), ""))
				want, bytes := uint32(16<<10), 0
				if option != nil {
					want, bytes = 2*size, size
				}
				if (err == nil) != (option != nil) || received != bytes {
					t.Errorf("the call ends with %v and %d bytes of metadata, want %d", err, received, bytes)
				}
				if got := <-server.setting; got != want {
					t.Errorf("the client announces %d bytes, want %d", got, want)
				}
			})
		}
	}
}

// hostile answers one call with large metadata, whatever the client has announced.
type hostile struct {
	listener net.Listener
	setting  chan uint32 // the largest header list that the client announces
}

func newHostile(t *testing.T, trailer bool, large string) *hostile {
	t.Helper()
	h := &hostile{listenTCP(t), make(chan uint32, 1)}
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := h.listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		raw := &rawConn{Framer: http2.NewFramer(conn, conn), conn: conn}
		if raw.WriteSettings() != nil {
			return
		}
		for {
			frame, err := raw.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if most, ok := frame.Value(http2.SettingMaxHeaderListSize); ok {
					h.setting <- most
				}
				if !frame.IsAck() && raw.WriteSettingsAck() != nil {
					return
				}
			case *http2.HeadersFrame:
				if raw.answer(frame.StreamID, trailer, large) != nil {
					return
				}
			}
		}
	})
	t.Cleanup(func() { h.listener.Close(); serving.Wait() })
	return h
}

// answer sends an empty message between a header and a trailer, one of them large.
func (r *rawConn) answer(id uint32, trailer bool, large string) error {
	header, end := []string{":status", "200", "content-type", "application/grpc"}, []string{"grpc-status", "0"}
	if trailer {
		end = append(end, "large", large)
	} else {
		header = append(header, "large", large)
	}
	if err := r.fields(id, false, header); err != nil {
		return err
	}
	if err := r.WriteData(id, false, make([]byte, 5)); err != nil {
		return err
	}
	return r.fields(id, true, end)
}
