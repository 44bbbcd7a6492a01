package meshlite_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/resolver"
)

// Each option that says which instances are called reaches the resolver.
func TestOptionsChooseWhoIsCalled(t *testing.T) {
	const passing, warning, critical, maintenance = "passing", "warning", "critical", "maintenance"
	for name, test := range map[string]struct {
		states  [4]string
		options []meshlite.ClientOption
		called  int
	}{
		"all":               {[4]string{passing, passing, passing, passing}, nil, 4},
		"a subset":          {[4]string{passing, passing, passing, passing}, []meshlite.ClientOption{meshlite.WithResolver(resolver.WithSubset(2))}, 2},
		"no warnings":       {[4]string{passing, passing, passing, warning}, nil, 3},
		"warnings":          {[4]string{passing, passing, passing, warning}, []meshlite.ClientOption{meshlite.WithResolver(resolver.WithWarningInstances())}, 4},
		"too few pass":      {[4]string{passing, critical, critical, critical}, nil, 4},
		"never too few":     {[4]string{passing, critical, critical, critical}, []meshlite.ClientOption{meshlite.WithResolver(resolver.WithPanicThreshold(0))}, 1},
		"sooner too few":    {[4]string{passing, passing, passing, critical}, []meshlite.ClientOption{meshlite.WithResolver(resolver.WithPanicThreshold(1))}, 4},
		"in maintenance":    {[4]string{passing, maintenance, maintenance, maintenance}, nil, 1},
		"maintenance, too":  {[4]string{passing, maintenance, maintenance, maintenance}, []meshlite.ClientOption{meshlite.WithResolver(resolver.WithMaintenance())}, 4},
		"but only in panic": {[4]string{passing, passing, passing, maintenance}, []meshlite.ClientOption{meshlite.WithResolver(resolver.WithMaintenance())}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			for _, state := range test.states {
				m.placeIn(state)
			}
			_, conn := m.client("consul:///test", test.options...)
			if _, err := testpb.NewTestServiceClient(conn).UnaryCall(t.Context(), &testpb.SimpleRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			if n := len(endpoints(m, "test")); n != test.called {
				t.Errorf("%d instances may be called, want %d", n, test.called)
			}
		})
	}
}

// placeIn runs a server of the service test whose checks are in a state.
func (m *mesh) placeIn(state string) {
	m.t.Helper()
	listener := listen(m.t)
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, &right{})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	m.t.Cleanup(func() { server.Stop(); <-ended })
	m.place(listener.Addr().String())
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	id := "test-" + port
	if state != "maintenance" {
		if err := m.agent.SetStatus(id, state); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	answer := httptest.NewRecorder()
	m.agent.ServeHTTP(answer, httptest.NewRequest(http.MethodPut, fmt.Sprintf("/v1/agent/service/maintenance/%s?enable=true", id), nil))
	if answer.Code != http.StatusOK {
		m.t.Fatalf("maintenance: %d %s", answer.Code, answer.Body)
	}
}
