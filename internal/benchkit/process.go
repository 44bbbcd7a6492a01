package benchkit

import (
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

// ProcessVariable, if set, makes this program one of those that are measured.
const ProcessVariable = "MESHLITE_BENCH_PROCESS"

// Itself is this program as another process. It ends when its input does.
func Itself(t testing.TB, process string, args ...string) (*exec.Cmd, io.WriteCloser) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), ProcessVariable+"="+process)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in
}

// UsedBy is the CPU time of a process group until now, as far as its processes still run.
func UsedBy(group int) (total time.Duration) {
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

// Run runs a program until the test ends, and then ends it by end.
func Run(t testing.TB, cmd *exec.Cmd, end func()) {
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
