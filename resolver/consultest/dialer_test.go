package consultest_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Checks connect by the dialer, and take what it says for the network.
func TestChecksConnectByTheDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		var dialed sync.Map
		agent, client := newAgent(t, consultest.WithDialer(func(_ context.Context, network, address string) (net.Conn, error) {
			dialed.Store(network+" "+address, true)
			if away.Load() {
				return nil, errors.New("away")
			}
			ours, theirs := net.Pipe()
			return ours, theirs.Close()
		}))
		passing := func() int {
			t.Helper()
			entries, _, err := client.Health().Service("catalog", "", true, nil)
			must(t, err)
			return len(entries)
		}
		checks := []consultest.Check{
			{TCP: "10.0.0.1:80", Interval: time.Second}, {HTTP: "http://10.0.0.2:80/", Interval: time.Second}, {GRPC: "10.0.0.3:80", Interval: time.Second},
		}
		for i, want := range []string{"tcp 10.0.0.1:80", "tcp 10.0.0.2:80", "tcp 10.0.0.3:80"} {
			if err := agent.Register(consultest.Service{ID: want[4:12], Name: "catalog", Address: want[4:12], Port: 80, Checks: checks[i : i+1]}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if _, ok := dialed.Load(want); !ok {
				t.Errorf("%q was not dialed", want)
			}
		}
		// TCP is content with a connection; the others got no answer.
		if n := passing(); n != 1 {
			t.Errorf("%d checks pass, want that of TCP", n)
		}
		away.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := passing(); n != 0 {
			t.Errorf("%d checks pass without a network", n)
		}
	})
}
