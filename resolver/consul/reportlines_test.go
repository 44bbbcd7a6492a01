package consul_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// reportLines are the reports of a watch, each in a line, without repetitions.
type reportLines struct {
	mu    sync.Mutex
	lines []string
}

// follow runs watch until the test ends.
func follow(t *testing.T, watch func(context.Context, *reportLines)) *reportLines {
	t.Helper()
	r, done := &reportLines{}, make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		watch(ctx, r)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// add appends a line, which is that of err, if there is one.
func (r *reportLines) add(line string, err error) {
	if err != nil {
		line = err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.lines); n == 0 || r.lines[n-1] != line {
		r.lines = append(r.lines, line)
	}
}

func (r *reportLines) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// want compares all lines, of one that ends with "..." the begin.
func (r *reportLines) want(t *testing.T, want ...string) {
	t.Helper()
	if got := r.all(); !slices.EqualFunc(got, want, isLine) {
		t.Errorf("reports are %q, want %q", got, want)
	}
}

// wantLast compares the last line.
func (r *reportLines) wantLast(t *testing.T, want string) {
	t.Helper()
	if all := r.all(); !endsWith(all, want) {
		t.Errorf("reports are %q, want %q at last", all, want)
	}
}

// await waits until the last line is as wanted.
func (r *reportLines) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !endsWith(r.all(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("reports are %q, want %q at last", r.all(), want)
		}
	}
}

func endsWith(lines []string, want string) bool {
	return len(lines) > 0 && isLine(lines[len(lines)-1], want)
}

func isLine(got, want string) bool {
	begin, begins := strings.CutSuffix(want, "...")
	return got == want || begins && strings.HasPrefix(got, begin)
}
