package faultproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that sends back what it gets, and a proxy to it.
func echo(t testing.TB) *faultproxy.Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	proxy, err := faultproxy.Listen(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close(); listener.Close(); <-done })
	return proxy
}

func dial(t testing.TB, proxy *faultproxy.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", proxy.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends a line and reads what comes back within d.
func say(c net.Conn, line string, d time.Duration) (string, error) {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func wantEcho(t *testing.T, c net.Conn) {
	t.Helper()
	if got, err := say(c, "hello", 5*time.Second); got != "hello\n" {
		t.Errorf("got %q, %v, want an echo", got, err)
	}
}

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if got, err := say(c, "hello", 5*time.Second); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %q, %v, want a reset connection", got, err)
	}
}

// wantRefused is for a connection that is reset as soon as it is there, which its
// client may see while it connects.
func wantRefused(t *testing.T, proxy *faultproxy.Proxy) {
	t.Helper()
	c, err := net.Dial("tcp", proxy.Address())
	if err == nil {
		defer c.Close()
		wantReset(t, c)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	var timeout net.Error
	if got, err := say(c, "hello", 50*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %q, %v, want an open connection and silence", got, err)
	}
}

func TestResetSparesNewConnections(t *testing.T) {
	proxy := echo(t)
	old := dial(t, proxy)
	wantEcho(t, old)
	proxy.Reset()
	wantReset(t, old)
	wantEcho(t, dial(t, proxy))
}

func TestRefuseResetsUntilHealed(t *testing.T) {
	proxy := echo(t)
	old := dial(t, proxy)
	wantEcho(t, old)
	proxy.Refuse()
	wantReset(t, old)
	wantRefused(t, proxy)
	proxy.Heal()
	wantEcho(t, dial(t, proxy))
}

func TestBlackholeIsSilentAndItsConnectionsStayDead(t *testing.T) {
	proxy := echo(t)
	old := dial(t, proxy)
	wantEcho(t, old)
	proxy.Blackhole()
	wantSilence(t, old)
	meanwhile := dial(t, proxy)
	wantSilence(t, meanwhile)
	proxy.Heal()
	wantSilence(t, old)
	wantSilence(t, meanwhile)
	wantEcho(t, dial(t, proxy))
}

// What passes is late by no less than the latency, there and back.
func TestSlowDelaysUntilHealed(t *testing.T) {
	proxy := echo(t)
	c := dial(t, proxy)
	proxy.Slow(200*time.Millisecond, 1000)
	wantSilence(t, c)
	proxy.Heal()
	wantEcho(t, dial(t, proxy))
}

// What is under way when the network goes silent does not arrive.
func TestBlackholeSwallowsWhatIsSlow(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	proxy, err := faultproxy.Listen(server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	c := dial(t, proxy)
	other, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	proxy.Slow(500*time.Millisecond, 0)
	if _, err := fmt.Fprintln(other, "hello"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // it is at the proxy; if not, it meets a dead link
	proxy.Blackhole()
	time.Sleep(500 * time.Millisecond)
	wantSilence(t, c)
}

// A stopped server resets its clients, and Close ends all connections.
func TestWhoCannotBeConnectedIsReset(t *testing.T) {
	proxy, err := faultproxy.Listen("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, proxy)
	proxy.Close()
	if c, err := net.Dial("tcp", proxy.Address()); err == nil {
		c.Close()
		t.Error("a closed proxy accepts connections")
	}
}

func Example() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer server.Close()
	proxy, err := faultproxy.Listen(server.Addr().String())
	if err != nil {
		panic(err)
	}
	defer proxy.Close()
	client, err := net.Dial("tcp", proxy.Address())
	if err != nil {
		panic(err)
	}
	defer client.Close()
	other, err := server.Accept()
	if err != nil {
		panic(err)
	}
	defer other.Close()

	proxy.Reset()
	_, err = client.Read(make([]byte, 1))
	fmt.Println(errors.Is(err, syscall.ECONNRESET))
	// Output: true
}
