package benchkit

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := Quantile(times, q); got != want {
			t.Errorf("quantile %v of 1 to 100 is %d, want %d", q, got, want)
		}
	}
}

func TestAMissingProgramIsNamedWithTheFix(t *testing.T) {
	_, err := FindProgram("nonesuch")
	if err == nil || !strings.Contains(err.Error(), "apt-get install nonesuch") {
		t.Errorf("error is %v, want one that says how to install it", err)
	}
}
