package demo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/programstest"
	"github.com/meshlite-go/meshlite/internal/shop"
)

// programs are the real ones.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := programstest.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The whole story, with real processes, a third of it 2 s long.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	dir := programs(t)
	t.Run("embedded", func(t *testing.T) { checkStory(t, dir, "embedded", "embedded") })
	// CI plays that of a real Consul without identities.
	t.Run("identity", func(t *testing.T) {
		agenttest.Path(t)
		said := checkStory(t, dir, "consul", "consul 1.", "--identity")
		if !strings.Contains(said, "every call is over mutual TLS") {
			t.Errorf("the story has no identity:\n%s", said)
		}
	})
	t.Run("stopped", func(t *testing.T) { stopStory(t, dir) })
}

// checkStory runs the story by the command line. A machine that was too busy to
// send the calls gets a second chance.
func checkStory(t *testing.T, dir, registry, name string, flags ...string) (said string) {
	out, said, err := runStory(t, dir, registry, flags...)
	if err != nil && strings.Contains(said, "this machine was too busy") {
		t.Logf("once more:\n%s", said)
		out, said, err = runStory(t, dir, registry, flags...)
	}
	if err != nil {
		t.Fatalf("%v:\n%s", err, said)
	}
	var result Result
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !strings.HasPrefix(result.Registry, name) {
		t.Errorf("the registry is %q, want %s", result.Registry, name)
	}
	checkSums(t, result)
	return said
}

func runStory(t *testing.T, dir, registry string, flags ...string) (out []byte, said string, err error) {
	command := exec.CommandContext(t.Context(), filepath.Join(dir, "meshlite"),
		append([]string{"demo", "-o", "json", "--duration", MinDuration.String(), "--registry", registry}, flags...)...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // it has children to end
	var progress strings.Builder
	command.Stderr = &progress
	out, err = command.Output()
	return out, progress.String(), err
}

// checkSums holds what the customers counted against what the instances say.
func checkSums(t *testing.T, r Result) {
	t.Helper()
	var inPhases uint64
	for _, p := range r.Phases {
		inPhases += p.Calls
	}
	if inPhases != r.Calls {
		t.Errorf("the phases have %d calls, all %d", inPhases, r.Calls)
	}
	of := map[string]uint64{}
	count := map[string]int{}
	for _, s := range r.Services {
		count[s.Name] = len(s.Instances)
		for _, i := range s.Instances {
			of[s.Name] += i.Calls
			if i.ID == "" || i.Address == "" {
				t.Errorf("an instance of %s is %+v", s.Name, i)
			}
		}
	}
	if count["catalog"] != 3 || count["inventory"] != 6 || count["storefront"] != 1 {
		t.Errorf("there were %v instances, want 3 catalogs, 3 inventories twice and a storefront", count)
	}
	if want := r.Calls + r.Refused + r.Abuser.Admitted; of["storefront"] != want {
		t.Errorf("the storefront says %d calls, its customers %d", of["storefront"], want)
	}
	// What the killed catalog did since it was last asked is unknown; retries add a fifth
	// at most, by their budget.
	if got, want := of["catalog"], r.Cache.Misses; got+want/20 < want || want+want/5 < got {
		t.Errorf("the catalogs say %d calls, the cache %d misses", got, want)
	}
}

// A demo that is stopped after the kill, in the middle of the restarts, leaves
// nothing and says that it was stopped. The race detector looks on.
func stopStory(t *testing.T, programs string) {
	dir := t.TempDir() // by which its processes are known from those of other tests
	entries, err := os.ReadDir(programs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(programs, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	progress := &stopAt{t, "is killed", cancel}
	_, err = Run(ctx, Options{Duration: MinDuration, Registry: shop.Embedded, Programs: dir, Progress: progress, slower: 4})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was stopped", err)
	}
	if left, _ := exec.Command("pgrep", "-f", dir).Output(); len(left) > 0 {
		t.Errorf("processes are left: %s", left)
	}
}

// stopAt logs what the demo says and stops it some time after it has said something.
type stopAt struct {
	t    *testing.T
	said string
	stop func()
}

func (s *stopAt) Write(p []byte) (int, error) {
	s.t.Log(strings.TrimRight(string(p), "\n"))
	if strings.Contains(string(p), s.said) {
		time.AfterFunc(1500*time.Millisecond, s.stop)
	}
	return len(p), nil
}

func TestOptionsThatAreWrong(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second:   "duration 1s is not in 6s to 1h0m0s: write for example --duration=20s",
		2 * time.Hour: "duration 2h0m0s is not in 6s to 1h0m0s: write for example --duration=20s",
	} {
		if _, err := Run(t.Context(), Options{Duration: d}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := Run(t.Context(), Options{Duration: MinDuration, Registry: shop.Embedded, Programs: t.TempDir(), Progress: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v, want how to build the programs", err)
	}
}
