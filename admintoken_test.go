package meshlite_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/freeport"
)

// outside is the network of a host whose callers are elsewhere, as connections report it.
type outside struct {
	*net.Dialer
	*net.ListenConfig
}

func newOutside() outside { return outside{new(net.Dialer), new(net.ListenConfig)} }

func (o outside) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	l, err := o.ListenConfig.Listen(ctx, network, address)
	return outsideListener{l}, err
}

type outsideListener struct{ net.Listener }

func (l outsideListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return outsideConn{conn}, err
}

type outsideConn struct{ net.Conn }

func (outsideConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 9100} }
func (outsideConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 40000} }

// By the pages of a server and of a program's own mux.
//
// Case I13
func TestTheAdminPageOffLoopbackNeedsAToken(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	for set, want := range map[string]struct{ without, with int }{"": {403, 403}, token: {401, 200}} {
		t.Setenv("MESHLITE_ADMIN_TOKEN", set)
		m := newMesh(t)
		m.runtime = configured(t, meshlite.RuntimeConfig{Network: newOutside()})
		served, own := freeport.For(t), freeport.For(t)
		m.serve(&shop{name: "a"}, meshlite.WithRuntime(m.runtime), meshlite.WithMetricsAddress(served))
		handler, err := m.runtime.Handler()
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle("/", handler)
		listener, err := newOutside().Listen(t.Context(), "tcp", own)
		if err != nil {
			t.Fatal(err)
		}
		mounted := &http.Server{Handler: mux}
		go func() { _ = mounted.Serve(listener) }()
		t.Cleanup(func() { _ = mounted.Close() })
		ask := func(address, path, token string) int {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Close = true; token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			return answer.StatusCode
		}
		for _, address := range []string{served, own} {
			paths := []string{"/", "/debug/meshlite"}
			if address == served {
				paths = append(paths, "/debug/pprof/", "/debug/pprof/heap")
			}
			for _, path := range paths {
				if got := ask(address, path, ""); got != want.without {
					t.Errorf("%s without a token is %d, want %d", path, got, want.without)
				}
				if got := ask(address, path, token); got != want.with {
					t.Errorf("%s with the token is %d, want %d", path, got, want.with)
				}
			}
			for _, path := range []string{"/metrics", "/healthz"} {
				if got := ask(address, path, ""); got != 200 {
					t.Errorf("%s is %d, want it open", path, got)
				}
			}
		}
	}
}

func TestTheAdminTokenIsCheckedWhenAServerIsMade(t *testing.T) {
	m := newMesh(t)
	for name, test := range map[string]struct{ token, file, want string }{
		"short":   {"hunter2", "", "MESHLITE_ADMIN_TOKEN) has 7 bytes"},
		"missing": {"", "/missing/token", `MESHLITE_ADMIN_TOKEN_FILE) "/missing/token": no such file`},
		"both":    {strings.Repeat("hunter2", 5), "/missing/token", "together with MESHLITE_ADMIN_TOKEN"},
	} {
		t.Setenv("MESHLITE_ADMIN_TOKEN", test.token)
		t.Setenv("MESHLITE_ADMIN_TOKEN_FILE", test.file)
		_, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want an error with %q and no token", name, err, test.want)
		}
		if _, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithMetricsAddress("")); err != nil {
			t.Errorf("%s: %v although there is no page", name, err)
		}
	}
}
