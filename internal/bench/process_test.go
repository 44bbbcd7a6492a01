package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// processes are what this program can be.
var processes = map[string]func(args []string, in io.Reader, out io.Writer) error{
	"backends":  func(_ []string, in io.Reader, out io.Writer) error { return serveBackends(in, out) },
	"gateway":   serveGateway,
	"generated": serveGenerated,
}

// backends run in a process of their own, so that the CPU time of this one is the
// callers'.
type backends struct {
	addresses
	group   int // of its process
	orders  io.Writer
	answers *bufio.Scanner
}

func startBackends(t testing.TB) *backends {
	t.Helper()
	cmd, orders := benchkit.Itself(t, "backends")
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	benchkit.Run(t, cmd, func() { orders.Close() })
	b := &backends{group: cmd.Process.Pid, orders: orders, answers: bufio.NewScanner(answers)}
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
