package child

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTailIsBounded(t *testing.T) {
	tail := &Tail{}
	for i := range 100_000 {
		fmt.Fprintf(tail, "line %d\n", i)
	}
	if got := tail.Last(2); got != "line 99998\nline 99999" {
		t.Errorf("the last two lines are %q", got)
	}
	if n := cap(tail.text); n > 8*maxTail {
		t.Errorf("it keeps %d bytes, want some %d", n, maxTail)
	}
	if got := (&Tail{}).Last(3); got != "" {
		t.Errorf("an empty one has %q", got)
	}
}
