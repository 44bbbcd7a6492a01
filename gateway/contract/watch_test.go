package contract_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/gateway/contract"
)

// scripted is a source that answers as it is set to.
type scripted struct {
	mu     sync.Mutex
	answer *contract.Contract
	err    error
	panics bool
	loads  int
}

func (s *scripted) set(answer *contract.Contract, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.err, s.panics = answer, err, false
}

func (s *scripted) Load(context.Context) (*contract.Contract, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	if s.panics {
		panic("a descriptor that nobody has foreseen")
	}
	return s.answer, s.err
}

func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

func contractOf(t testing.TB, text string) *contract.Contract {
	t.Helper()
	made, err := contract.New(compile(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Case E10
//
// A contract that changed is passed on once, at the next load; one that is broken or refused leaves the one before it, and is logged and counted.
func TestWatchKeepsTheLastGoodContract(t *testing.T) {
	first, same, second := contractOf(t, cakes), contractOf(t, cakes), contractOf(t, strings.Replace(cakes, "string name", "string title", 1))
	synctest.Test(t, func(t *testing.T) {
		source := &scripted{answer: first}
		var taken []*contract.Contract
		var refuse error
		var lines bytes.Buffer
		w, err := contract.Watch(contract.WatchConfig{
			Source: source, Name: "cakes", Interval: 10 * time.Second, Logger: slog.New(slog.NewTextHandler(&lines, nil)),
			OnContract: func(c *contract.Contract) error {
				if refuse == nil {
					taken = append(taken, c)
				}
				return refuse
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		after := func(d time.Duration, wantTaken int, want *contract.Contract) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if len(taken) != wantTaken || w.State().Contract != want {
				t.Fatalf("%d contracts taken, want %d; state %+v", len(taken), wantTaken, w.State())
			}
		}
		after(0, 1, first)
		source.set(same, nil)
		after(10*time.Second, 1, first)
		source.set(nil, errors.New("the set is broken"))
		after(time.Minute, 1, first)
		if stats := w.State(); stats.Failures < 5 || stats.Err == nil || !strings.Contains(lines.String(), "the set is broken") || !strings.Contains(lines.String(), "kept=true") {
			t.Errorf("stats %+v, log %s", stats, &lines)
		}
		if n := strings.Count(lines.String(), "the set is broken"); n > 2 {
			t.Errorf("one failure was logged %d times in a minute", n)
		}
		source.mu.Lock()
		source.panics = true
		source.mu.Unlock()
		after(10*time.Second, 1, first)
		if err := w.State().Err; err == nil || !strings.Contains(err.Error(), "nobody has foreseen") {
			t.Errorf("error %v, want the panic", err)
		}
		refuse = errors.New("routes in conflict") // published by the lock of source
		source.set(second, nil)
		after(10*time.Second, 1, first)
		if stats := w.State(); stats.Refusals == 0 || !strings.Contains(stats.Err.Error(), "refused: routes in conflict") {
			t.Errorf("stats %+v, want a refusal", stats)
		}
		refuse = nil
		source.set(second, nil)
		after(10*time.Second, 2, second)
		if err := w.State().Err; err != nil {
			t.Errorf("error %v stays", err)
		}
	})
}

// A change of instances loads at once and, since an old instance may have answered,
// some times more; without one it is the interval.
func TestWatchLoadsWhenInstancesChange(t *testing.T) {
	first := contractOf(t, cakes)
	synctest.Test(t, func(t *testing.T) {
		source, changed := &scripted{answer: first}, make(chan struct{})
		w, err := contract.Watch(contract.WatchConfig{
			Source: source, Changed: changed, Interval: time.Hour, Logger: silent,
			OnContract: func(*contract.Contract) error { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := source.count(); n != 1 {
			t.Fatalf("%d loads at the start, want 1", n)
		}
		changed <- struct{}{}
		synctest.Wait()
		if n := source.count(); n != 2 {
			t.Errorf("%d loads with the change, want 2", n)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := source.count(); n != 7 {
			t.Errorf("%d loads 5 s after the change, want 7", n)
		}
		close(changed)
		time.Sleep(25 * time.Minute)
		if n := source.count(); n != 7 {
			t.Errorf("%d loads after a closed channel, want 7", n)
		}
		w.Close()
		time.Sleep(3 * time.Hour)
		if n := source.count(); n != 7 {
			t.Errorf("%d loads after Close, want 7", n)
		}
	})
}

// In a rolling update every other load may reach an old instance: the new contract stays.
// A rollback is passed on within seconds.
func TestWatchDoesNotFlapInARollingUpdate(t *testing.T) {
	older, newer := contractOf(t, cakes), contractOf(t, strings.Replace(cakes, "string name", "string title", 1))
	synctest.Test(t, func(t *testing.T) {
		source, changed := &scripted{answer: older}, make(chan struct{})
		var taken []*contract.Contract
		w, err := contract.Watch(contract.WatchConfig{
			Source: source, Changed: changed, Interval: time.Hour, Logger: silent,
			OnContract: func(c *contract.Contract) error { taken = append(taken, c); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		synctest.Wait()
		for i := range 10 {
			source.set([]*contract.Contract{newer, older}[i%2], nil)
			changed <- struct{}{}
			synctest.Wait()
		}
		if len(taken) != 2 || w.State().Contract != newer {
			t.Fatalf("%d contracts taken, want the old one and the new one; state %+v", len(taken), w.State())
		}
		source.set(older, nil)
		changed <- struct{}{}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(taken) != 3 || w.State().Contract != older {
			t.Fatalf("%d contracts taken, want the rollback after 5 s", len(taken))
		}
	})
}

// A source that is down is not asked in a loop.
func TestWatchBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &scripted{err: errors.New("down")}
		w, err := contract.Watch(contract.WatchConfig{
			Source: source, Interval: 10 * time.Second, Logger: silent,
			OnContract: func(*contract.Contract) error { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		time.Sleep(10 * time.Minute)
		if n := source.count(); n < 60 || n > 130 {
			t.Errorf("%d loads in 10 minutes, want 60 to 130", n)
		}
	})
}

// Close ends a load that does not return by itself.
func TestWatchCloseCancelsALoad(t *testing.T) {
	started := make(chan struct{})
	w, err := contract.Watch(contract.WatchConfig{
		Source: stuck{started}, Logger: silent,
		OnContract: func(*contract.Contract) error { t.Error("taken after Close"); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	<-started
	w.Close()
}

type stuck struct{ started chan struct{} }

func (s stuck) Load(ctx context.Context) (*contract.Contract, error) {
	close(s.started)
	<-ctx.Done()
	return nil, ctx.Err()
}

// Case E10
//
// A descriptor set file that changes is read again within a second or two; a broken one keeps the contract before it.
func TestWatchReadsAChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cakes.binpb")
	write(t, path, compile(t, cakes))
	changed := strings.Replace(cakes, "string name", "string title", 1)
	synctest.Test(t, func(t *testing.T) {
		var taken []string
		w, err := contract.Watch(contract.WatchConfig{
			Source: contract.Files(path), Interval: time.Hour, Logger: silent,
			OnContract: func(c *contract.Contract) error {
				taken = append(taken, string(c.Services[0].Methods().Get(0).Input().Fields().Get(0).Name()))
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		settle := func() { time.Sleep(2 * time.Second); synctest.Wait() }
		settle()
		set := compile(t, changed)
		set.File = set.File[len(set.File)-1:]
		set.File[0].Dependency = append(set.File[0].Dependency, "nowhere.proto")
		write(t, path, set)
		settle()
		if w.State().Err == nil || len(taken) != 1 {
			t.Errorf("error %v, contracts %v: want an error and the one before", w.State().Err, taken)
		}
		write(t, path, compile(t, changed))
		settle()
		if got := strings.Join(taken, " "); got != "name title" {
			t.Errorf("contracts %q, want name, title; error %v", got, w.State().Err)
		}
	})
}

func TestWatchNamesWhatIsMissing(t *testing.T) {
	take := func(*contract.Contract) error { return nil }
	for want, config := range map[string]contract.WatchConfig{
		"WatchConfig.Source: missing":     {OnContract: take},
		"WatchConfig.OnContract: missing": {Source: contract.Files("x")},
		"WatchConfig.Interval: -1s":       {Source: contract.Files("x"), OnContract: take, Interval: -time.Second},
	} {
		if w, err := contract.Watch(config); err == nil || w != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
