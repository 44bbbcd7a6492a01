package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
)

// processVariable, if set, makes this program one of those that are measured.
const processVariable = "MESHLITE_BENCH_PROCESS"

// processes are what this program can be.
var processes = map[string]func(args []string, in io.Reader, out io.Writer) error{
	"backends":  func(_ []string, in io.Reader, out io.Writer) error { return serveBackends(in, out) },
	"gateway":   serveGateway,
	"generated": serveGenerated,
}

// itself is this program as another process. It ends when its input does.
func itself(t testing.TB, process string, args ...string) (*exec.Cmd, io.WriteCloser) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), processVariable+"="+process)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in
}

// backends run in a process of their own, so that the CPU time of this one is the
// callers'.
type backends struct {
	addresses
	orders  io.Writer
	answers *bufio.Scanner
}

func startBackends(t testing.TB) *backends {
	t.Helper()
	cmd, orders := itself(t, "backends")
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

// usedBy is the CPU time of a process group until now, as far as its processes still run.
func usedBy(group int) (total time.Duration) {
	if group == 0 {
		return 0
	}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // there are none but on Linux
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(content), ") ") // the name may have spaces
		fields := strings.Fields(rest)                   // from the state on
		if len(fields) < 13 || fields[2] != strconv.Itoa(group) {
			continue
		}
		for _, ticks := range fields[11:13] { // in user mode, in the kernel
			n, _ := strconv.ParseInt(ticks, 10, 64)
			total += time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100
		}
	}
	return total
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
