package lines_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/lines"
)

// Each level has a limit of its own, and a level between two shares that of the lower one.
func TestEachLevelHasItsLimit(t *testing.T) {
	l, now := lines.New(1), time.Now()
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	for _, level := range levels {
		if !l.Admit(level, now) {
			t.Errorf("the first line of %v is left out: another level has taken its place", level)
		}
	}
	for _, level := range levels {
		if l.Admit(level, now) || l.Admit(level+1, now) {
			t.Errorf("a second line of %v, or one of %v, is written", level, level+1)
		}
	}
	leftOut := map[slog.Level]uint64{}
	l.Settle(now.Add(2*time.Second), func(level slog.Level, n uint64) { leftOut[level] += n })
	for _, level := range levels {
		if leftOut[level+1] != 2 {
			t.Errorf("left out are %v: want 2 of each level, and the latest level named", leftOut)
		}
	}
}
