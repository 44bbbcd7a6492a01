package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite"
)

// TestMain is the command itself in the processes that the tests start.
func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_COMMAND") != "" {
		main()
		return
	}
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"} {
		os.Unsetenv(name)
	}
	meshlite.DefaultRuntime() // lives as long as the process
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// meshliteWith runs the tool in this process.
func meshliteWith(ctx context.Context, in string, args ...string) result {
	var out, err buffer
	code := run(ctx, args, strings.NewReader(in), &out, &err)
	return result{code, out.String(), err.String()}
}

func runTool(t *testing.T, args ...string) result {
	t.Helper()
	return meshliteWith(t.Context(), "", args...)
}

// want checks the exit code and what the streams contain. On failure stderr must
// be one line.
func (r result) want(t *testing.T, code int, out, err string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.out, r.err)
	}
	if !strings.Contains(r.out, out) {
		t.Errorf("stdout %q, want %q in it", r.out, out)
	}
	if !strings.Contains(r.err, err) {
		t.Errorf("stderr %q, want %q in it", r.err, err)
	}
	if r.code == 0 {
		return
	}
	last := strings.LastIndex(strings.TrimSuffix(r.err, "\n"), "\n") + 1
	if !strings.HasPrefix(r.err[last:], "meshlite: ") || strings.Contains(r.err, "goroutine ") {
		t.Errorf("stderr %q, want a line of meshlite at its end", r.err)
	}
}

// buffer can be read while a command writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRuntime(t testing.TB) *meshlite.Runtime {
	t.Helper()
	r, err := meshlite.NewRuntime(meshlite.RuntimeConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
