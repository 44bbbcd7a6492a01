package meshlite_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite"
)

// userTimeout is after how many milliseconds without an acknowledgement the kernel closes a
// connection, 0 for its own default of some 15 minutes.
func userTimeout(conn net.Conn) (ms int, err error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
	if failed != nil {
		return 0, failed
	}
	return ms, err
}

// noting is a listener that notes the last connection it has accepted.
type noting struct {
	net.Listener
	last atomic.Value // net.Conn
}

func (n *noting) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		n.last.Store(conn)
	}
	return conn, err
}

// A peer that has vanished without a FIN or an RST holds no connection for longer, on either
// side: neither the calls on it, nor what a server keeps for it.
func TestBothSidesCloseAConnectionThatIsNotAcknowledged(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := &noting{Listener: inner}
	bounded(t, listener, echo{})
	var ours atomic.Value // net.Conn
	dial := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			ours.Store(conn)
		}
		return conn, err
	})
	conn, err := meshlite.NewClient("passthrough:///"+inner.Addr().String(),
		meshlite.WithPlaintext(), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t)), meshlite.WithDialOptions(dial))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good(t, testgrpc.NewTestServiceClient(conn))
	for side, held := range map[string]*atomic.Value{"client": &ours, "server": &listener.last} {
		ms, err := userTimeout(held.Load().(net.Conn))
		if err != nil || ms != 20_000 {
			t.Errorf("the %s's connection has a TCP_USER_TIMEOUT of %d ms, %v, want 20,000", side, ms, err)
		}
	}
}
