package proxies

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// get asks for the name of a backend.
func get(client *http.Client, url string) asker {
	return func(ctx context.Context) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/name", nil)
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return string(body), err
	}
}

// httpClient keeps a connection for each caller, until the test ends.
func httpClient(t testing.TB, settings *tls.Config) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: callers, TLSClientConfig: settings, ForceAttemptHTTP2: settings != nil}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Four copies of a small HTTP service: even shares, and no GET fails while one is killed and
// started again.
func TestNoGETFailsThroughAProxy(t *testing.T) {
	for _, f := range []front{frontOf(t, "nginx", "gateway.conf"), frontOf(t, "haproxy", "gateway.cfg")} {
		t.Run(f.program, func(t *testing.T) {
			program(t, f.program)
			agent := agenttest.Start(t)
			backends := startBackends(t, agent, kindHTTP, f.service, 4)
			ask := get(httpClient(t, nil), "http://"+f.start(t, agent, t.TempDir()))
			allAnswer(t, ask, backends)
			sharesAreEven(t, ask, backends)
			if _, failures, err := killAndRestart(t, ask, backends[1]).all(); failures > 0 {
				t.Errorf("%d GETs failed, the first with: %v", failures, err)
			}
		})
	}
}

// Three gateways, which register themselves: likewise.
func TestNoGETFailsThroughSeveralGateways(t *testing.T) {
	for _, f := range []front{frontOf(t, "nginx", "gateway.conf"), frontOf(t, "haproxy", "gateway.cfg")} {
		t.Run(f.program, func(t *testing.T) {
			program(t, f.program)
			agent := agenttest.Start(t)
			gateways := startGateways(t, agent, 3)
			ask := get(httpClient(t, nil), "http://"+f.start(t, agent, t.TempDir()))
			allAnswer(t, ask, gateways)
			sharesAreEven(t, ask, gateways)
			if _, failures, err := killAndRestart(t, ask, gateways[1]).all(); failures > 0 {
				t.Errorf("%d GETs failed, the first with: %v", failures, err)
			}
		})
	}
}

// What a gateway needs of the proxy in front of it.
func TestAProxyLetsThroughWhatAGatewayNeeds(t *testing.T) {
	for _, f := range []front{frontOf(t, "nginx", "gateway.conf"), frontOf(t, "haproxy", "gateway.cfg")} {
		t.Run(f.program, func(t *testing.T) {
			program(t, f.program)
			agent := agenttest.Start(t)
			backends := startBackends(t, agent, kindHTTP, f.service, 1)
			address := f.start(t, agent, t.TempDir())
			client := httpClient(t, nil)
			allAnswer(t, get(client, "http://"+address), backends)
			addressIsPassedOn(t, client, address)
			eventsComeAtOnce(t, client, address)
			upgradesWork(t, address)
		})
	}
}

func addressIsPassedOn(t *testing.T, client *http.Client, address string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/name", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Forwarded-For", "203.0.113.7")
	request.Header.Set("Forwarded", "for=203.0.113.8")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	seen := strings.ReplaceAll(strings.Join(response.Header.Values("X-Seen-For"), ","), " ", "")
	if seen != "203.0.113.7,127.0.0.1" {
		t.Errorf("X-Forwarded-For is %q, want the caller's address at its end", seen)
	}
	if got := response.Header.Values("X-Seen-Forwarded"); len(got) > 0 {
		t.Errorf("Forwarded is %q, want none", got)
	}
	if got := response.Header.Get("X-Seen-Proto"); got != "http" {
		t.Errorf("X-Forwarded-Proto is %q, want http", got)
	}
}

func eventsComeAtOnce(t *testing.T, client *http.Client, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || line != "data: gateway-1\n" {
		t.Errorf("the first event is %q (%v), while the stream goes on", line, err)
	}
}

func upgradesWork(t *testing.T, address string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "GET /echo HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+sampleKey+"\r\n\r\n")
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade is answered with %s", response.Status)
	}
	for _, line := range []string{"one\n", "two\n"} {
		_, _ = io.WriteString(conn, line)
		if got, err := in.ReadString('\n'); err != nil || got != line {
			t.Errorf("got %q (%v), want %q", got, err, line)
		}
	}
}

// call calls a method through a channel.
func call(conn grpc.ClientConnInterface) asker {
	client := catalogv1.NewCatalogServiceClient(conn)
	return func(ctx context.Context) (string, error) {
		answer, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{}, grpc.WaitForReady(true))
		return answer.GetSweet().GetId(), err
	}
}

func dial(t testing.TB, address string, creds credentials.TransportCredentials, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// repeats counts the attempts that gRPC makes by itself, since the proxy says that the call
// was not begun.
type repeats struct{ atomic.Int32 }

func (r *repeats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (r *repeats) HandleRPC(_ context.Context, s stats.RPCStats) {
	if begin, ok := s.(*stats.Begin); ok && begin.IsTransparentRetryAttempt {
		r.Add(1)
	}
}
func (r *repeats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (r *repeats) HandleConn(context.Context, stats.ConnStats)                       {}

// Three gRPC instances: even shares. While one is killed, a call fails only if it was sent to
// it, at most one of each caller and connection; nothing fails once the proxy goes on without
// it. NGINX reports such a call as failed. HAProxy claims that it was refused, and gRPC
// makes it again.
func TestOnlyCallsInFlightFailThroughAProxy(t *testing.T) {
	for _, f := range []front{frontOf(t, "nginx", "grpc.conf"), frontOf(t, "haproxy", "grpc.cfg")} {
		t.Run(f.program, func(t *testing.T) {
			program(t, f.program)
			agent := agenttest.Start(t)
			backends := startBackends(t, agent, kindGRPC, f.service, 3)
			again := &repeats{}
			ask := call(dial(t, f.start(t, agent, t.TempDir()), insecure.NewCredentials(), grpc.WithStatsHandler(again)))
			allAnswer(t, ask, backends)
			sharesAreEven(t, ask, backends)
			_, failures, err := killAndRestart(t, ask, backends[1]).all()
			t.Logf("%d calls were made again", again.Load())
			if failures > callers {
				t.Errorf("%d calls failed, want at most the %d in flight; the first with: %v", failures, callers, err)
			}
			if failures > 0 && status.Code(err) != codes.Unavailable {
				t.Errorf("a call failed with %v, want Unavailable, which callers may retry", err)
			}
		})
	}
}

// With TLS in front and behind, and nobody let in who is not verified.
func TestProxiesSpeakTLSOnBothSides(t *testing.T) {
	for _, f := range fronts {
		if !f.secure {
			continue
		}
		t.Run(filepath.Join(f.program, f.config), func(t *testing.T) {
			program(t, f.program)
			agent, dir := agenttest.Start(t), t.TempDir()
			authority := certtest.New(t)
			cert, key := issue(t, authority, dir, f.service, "front")
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			kind := kindHTTP
			if f.service == "catalog" {
				kind = kindGRPC
			}
			backends := startBackends(t, agent, kind, f.service, 2, cert, key)
			address := f.start(t, agent, dir)
			settings := &tls.Config{RootCAs: authority.Roots, ServerName: "front", Certificates: []tls.Certificate{pair}}
			ask := get(httpClient(t, settings), "https://"+address)
			if kind == kindGRPC {
				ask = call(dial(t, address, credentials.NewTLS(settings)))
			}
			allAnswer(t, ask, backends)
			if kind == kindGRPC {
				strangersAreKeptOut(t, address, authority.Roots)
			}
		})
	}
}

func strangersAreKeptOut(t *testing.T, address string, roots *x509.CertPool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn := dial(t, address, credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "front"}))
	if _, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{}); err == nil {
		t.Error("a caller without a certificate was answered")
	}
}
