package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
)

// backendsVariable, if set, makes this program the process of the backends.
const backendsVariable = "MESHLITE_BENCH_BACKENDS"

// backends run in a process of their own, so that the CPU time of this one is the
// callers'.
type backends struct {
	addresses
	orders  io.Writer
	answers *bufio.Scanner
}

func startBackends(t testing.TB) *backends {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), backendsVariable+"=1")
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, cmd, func() { orders.Close() })
	b := &backends{orders: orders, answers: bufio.NewScanner(answers)}
	if err := b.read(&b.addresses); err != nil {
		t.Fatalf("the process of the backends did not start: %v", err)
	}
	return b
}

// slow makes the first of the backends take d for an answer, 0 being no time.
func (b *backends) slow(t testing.TB, d time.Duration) {
	t.Helper()
	if _, err := fmt.Fprintln(b.orders, d); err != nil {
		t.Fatal(err)
	}
	var done string
	if err := b.read(&done); err != nil {
		t.Fatal(err)
	}
}

func (b *backends) read(v any) error {
	if !b.answers.Scan() {
		if err := b.answers.Err(); err != nil {
			return err
		}
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(b.answers.Bytes(), v)
}

// run runs a program until the test ends, and then ends it by end.
func run(t testing.TB, cmd *exec.Cmd, end func()) {
	t.Helper()
	tail := &child.Tail{}
	if cmd.Stdout == nil {
		cmd.Stdout = tail
	}
	cmd.Stderr = tail
	cmd.SysProcAttr = child.OwnGroup()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end()
		// Its whole group, since a program may have workers that outlive it.
		kill := time.AfterFunc(5*time.Second, func() { _ = child.KillGroup(cmd.Process.Pid) })
		defer kill.Stop()
		_ = cmd.Wait() // a program that is stopped may call that a failure
		if last := tail.Last(20); t.Failed() && last != "" {
			t.Logf("%s wrote last:\n%s", cmd.Path, last)
		}
	})
}
