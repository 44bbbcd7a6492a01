package spire_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/spire"
	"github.com/meshlite-go/meshlite/internal/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	catalog    = "spiffe://example.org/shop/catalog"
	storefront = "spiffe://example.org/shop/storefront"
)

// sourceAt reads from a in memory.
func sourceAt(t testing.TB, a *agent, config spire.Config) (*spire.Source, *sourcetest.Log) {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	stop := a.serve(listener)
	log := &sourcetest.Log{}
	config.Address, config.Logger = "tcp://127.0.0.1:1", slog.New(slog.NewTextHandler(log, nil))
	s, err := spire.New(config.WithClientOptions(workloadapi.WithDialOptions(grpc.WithContextDialer(
		func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); stop() })
	return s, log
}

func next(t testing.TB, s identity.Source, last *identity.Snapshot) *identity.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	n, err := s.Next(ctx, last)
	if err != nil {
		_, why := s.Current()
		t.Fatal(err, why)
	}
	return n
}

func TestASourceOfTheWorkloadAPI(t *testing.T) {
	for name, check := range sourcetest.Checks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAgent(t, catalog)
				s, _ := sourceAt(t, a, spire.Config{})
				check(t, sourcetest.Source{
					Source: s, ID: catalog, Target: "catalog",
					Options: []identity.Option{identity.WithServerIDs(map[string]string{"catalog": catalog})},
					Renew:   a.renew, AddRoot: a.addRoot, DropOldRoots: a.dropOldRoots, SetReachable: a.setReachable, SetAllowed: a.setAllowed,
				})
			})
		})
	}
}

// Whatever an agent answers while it is broken, it is asked again, and the log has a line for it.
func TestAnAgentThatFailsIsAskedAgain(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.PermissionDenied, codes.InvalidArgument, codes.Canceled} {
		synctest.Test(t, func(t *testing.T) {
			a := newAgent(t, catalog)
			a.change(func() { a.failure = status.Error(code, "no identity issued") })
			s, log := sourceAt(t, a, spire.Config{})
			time.Sleep(10 * time.Minute)
			if _, err := s.Current(); err == nil || !strings.Contains(err.Error(), "no identity issued") {
				t.Errorf("%v: the error is %v", code, err)
			}
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("%v: %d lines: %s", code, n, log)
			}
			a.setReachable(true)
			next(t, s, nil)
			synctest.Wait()
			if !strings.Contains(log.String(), "from SPIRE again") {
				t.Errorf("%v: the log does not say that it is over: %s", code, log)
			}
		})
	}
}

// A process with several ids takes the one that is set, or says which there are.
// What a runtime exports is that of an agent's source: who it is, until when, and what was
// received and has failed. An id in another form than Consul's is the name.
func TestASourceReportsWhatConsulsDoes(t *testing.T) {
	for id, before := range map[string]string{"": "", catalog: catalog, "spiffe://example.org/ns/default/dc/dc1/svc/till": "till"} {
		t.Run(id, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAgent(t, catalog, "spiffe://example.org/ns/default/dc/dc1/svc/till")
				a.setReachable(false)
				s, _ := sourceAt(t, a, spire.Config{ID: id})
				mtls, err := identity.New(s, identity.WithServerIDs(map[string]string{"catalog": catalog}))
				if err != nil {
					t.Fatal(err)
				}
				defer mtls.Close()
				time.Sleep(time.Minute)
				if stats := mtls.Stats(); stats.Service != before || stats.Source.Failed == 0 || stats.Source.Published != 0 {
					t.Errorf("before the first certificate: %+v", stats)
				}
				a.setReachable(true)
				first := next(t, s, nil)
				if stats := mtls.Stats(); stats.Service != cmp.Or(before, catalog) || stats.ID != first.ID().String() || stats.Source.Published != 1 || stats.ValidUntil.IsZero() {
					t.Errorf("with one: %+v", stats)
				}
			})
		})
	}
}

func TestAnIDIsChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t, catalog, storefront)
		for id, want := range map[string]string{"": catalog, catalog: catalog, storefront: storefront} {
			s, _ := sourceAt(t, a, spire.Config{ID: id})
			if got := next(t, s, nil).ID().String(); got != want {
				t.Errorf("ID %q: the certificate is of %q", id, got)
			}
		}
		s, _ := sourceAt(t, a, spire.Config{ID: "spiffe://example.org/shop/other"})
		time.Sleep(time.Minute)
		if _, err := s.Current(); err == nil || !strings.Contains(err.Error(), catalog) {
			t.Errorf("an id that there is not: %v", err)
		}
	})
}

// An agent that is started anew at its socket is found again, without a certificate lost on the way.
func TestAnAgentThatIsStartedAnew(t *testing.T) {
	a := newAgent(t, catalog)
	path := filepath.Join(t.TempDir(), "a.sock")
	start := func() (stop func()) {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return a.serve(listener)
	}
	stop := start()
	t.Setenv(workloadapi.SocketEnv, "unix://"+path)
	log := &sourcetest.Log{}
	s, err := spire.New(spire.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first := next(t, s, nil)
	stop()
	for !strings.Contains(log.String(), "the last certificate stays") { // until the test's own time is up
		time.Sleep(5 * time.Millisecond)
	}
	if now, err := s.Current(); now != first || err != nil {
		t.Errorf("without the agent: %v", err)
	}
	a.renew()
	stop = start()
	defer stop()
	next(t, s, first)
}

func TestAConfigIsCheckedWhenBuilt(t *testing.T) {
	t.Setenv(workloadapi.SocketEnv, "")
	for name, config := range map[string]spire.Config{
		workloadapi.SocketEnv: {},
		"Address":             {Address: "http://127.0.0.1:1"},
		"ID":                  {Address: "tcp://127.0.0.1:1", ID: "catalog"},
	} {
		if _, err := spire.New(config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func Example() {
	source, err := spire.New(spire.Config{Address: "unix:///run/spire/agent.sock"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer source.Close()
	mtls, err := identity.New(source, identity.WithServerIDs(map[string]string{"catalog": "spiffe://example.org/shop/catalog"}))
	fmt.Println(mtls.Info().SecurityProtocol, err)
	// Output: tls <nil>
}
