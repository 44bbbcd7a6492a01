package lines_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/lines"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func admitted(l *lines.Limit, level slog.Level, n int, now time.Time) (got int) {
	for range n {
		if l.Admit(level, now) {
			got++
		}
	}
	return got
}

func settled(l *lines.Limit, now time.Time) map[slog.Level]uint64 {
	got := map[slog.Level]uint64{}
	l.Settle(now, func(level slog.Level, n uint64) { got[level] += n })
	return got
}

func TestTheFirstOfEachSecondAreLetThrough(t *testing.T) {
	l, now := lines.New(3), time.Now()
	for second := range 3 {
		at := now.Add(time.Duration(second) * time.Second)
		if got := admitted(l, slog.LevelWarn, 10, at); got != 3 {
			t.Errorf("second %d: %d lines, want 3", second, got)
		}
	}
	if got := admitted(l, slog.LevelDebug, 10, now.Add(2*time.Second)); got != 3 {
		t.Errorf("%d lines at debug, want 3: levels have a limit each", got)
	}
}

func TestWhatIsLeftOutIsReportedOnceTheSecondIsOver(t *testing.T) {
	l, now := lines.New(3), time.Now()
	if l.Owes() {
		t.Error("there is something to report before the first line")
	}
	admitted(l, slog.LevelWarn, 10, now)
	admitted(l, slog.LevelDebug, 5, now.Add(500*time.Millisecond))
	if got := settled(l, now.Add(999*time.Millisecond)); len(got) != 0 || !l.Owes() {
		t.Errorf("reported %v within the second", got)
	}
	if got := settled(l, now.Add(time.Second)); len(got) != 1 || got[slog.LevelWarn] != 7 || !l.Owes() {
		t.Errorf("reported %v, want the 7 warnings", got)
	}
	if got := settled(l, now.Add(time.Hour)); len(got) != 1 || got[slog.LevelDebug] != 2 || l.Owes() {
		t.Errorf("reported %v, want the 2 lines at debug", got)
	}
}

// Case logs
func TestNothingIsLost(t *testing.T) {
	l, now := lines.New(5), time.Now()
	var mu sync.Mutex
	var let, told uint64
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 10_000 {
				at := now.Add(time.Duration(i*8+g) * 100 * time.Microsecond)
				l.Settle(at, func(_ slog.Level, n uint64) { mu.Lock(); told += n; mu.Unlock() })
				if l.Admit(slog.LevelWarn, at) {
					mu.Lock()
					let++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	for _, n := range settled(l, now.Add(time.Hour)) {
		told += n
	}
	if let+told != 80_000 || let > 100 || l.Owes() {
		t.Errorf("%d lines let through and %d told, want 80000 together", let, told)
	}
}
