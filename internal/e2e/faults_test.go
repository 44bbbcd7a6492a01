package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/chaos"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
)

// R4: A Consul outage fails no call and closes no connection: stalled, and with
// connections that were dropped without a word.
//
// F7: Health flapping every 100 ms: 0 failed, no reconnect of unchanged endpoints.
//
// F8: The real Consul agent killed and restarted empty, twice, under load: 0 failed
// calls, all services registered again.
//
// G4: A crash without deregistration: out of rotation at once by connection state,
// out of Consul's passing instances after the check's time.
//
// F3, F4: One stalled, or answering errors at once: a few calls find it out.
//
// Each is a row of `make chaos`, in its short form.
//
// Case R4
// Case G4
// Case F3
// Case F4
// Case F7
// Case F8: Consul killed and restarted empty, twice, under load fails no call.
func TestRealFaults(t *testing.T) {
	dir := build(t)
	agenttest.Path(t)
	for _, name := range []string{"consul-stalled", "consul-silent", "health-flaps", "consul-restarted", "instance-killed", "instance-stalled", "instance-failing", "wrong-program"} {
		t.Run(name, func(t *testing.T) {
			result := makeFault(t, dir, name)
			// A machine that stalls fails calls by their own deadline.
			if missed := strings.Join(result.Missed(), "; "); strings.Contains(missed, "too busy") {
				t.Log("once more: ", missed)
				result = makeFault(t, dir, name)
			}
			var table strings.Builder
			if err := result.WriteTable(&table); err != nil {
				t.Fatal(err)
			}
			t.Log(table.String())
			for _, missed := range result.Missed() {
				t.Error(missed)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) { stopChaos(t, dir) })
}

func makeFault(t *testing.T, dir, name string) *chaos.Result {
	t.Helper()
	result, err := chaos.Run(t.Context(), chaos.Options{Short: true, Only: []string{name}, Programs: dir, Progress: logger{t, "", nil}})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// stopChaos stops while Consul is stalled, which leaves no process behind.
func stopChaos(t *testing.T, dir string) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	_, err := chaos.Run(ctx, chaos.Options{Only: []string{"consul-stalled"}, Programs: dir, Progress: logger{t, "is stalled", stop}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was stopped", err)
	}
	left, err := exec.Command("pgrep", "-l", "-P", strconv.Itoa(os.Getpid())).Output()
	if none := (*exec.ExitError)(nil); !errors.As(err, &none) || none.ExitCode() != 1 {
		t.Errorf("processes are left: %s (%v)", left, err)
	}
}

// logger logs what is written, and calls then when it has said something.
type logger struct {
	t    *testing.T
	said string
	then func()
}

func (l logger) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	if l.then != nil && strings.Contains(string(p), l.said) {
		l.then()
	}
	return len(p), nil
}
