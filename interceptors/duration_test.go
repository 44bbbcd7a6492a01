package interceptors_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
)

// C18: "5 minutes", "5 min", "10s", "1 month" mean what they say.
//
// Case C18: Durations mean what they say.
func TestDurationsMeanWhatTheySay(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"5 minutes": 5 * time.Minute, "5 min": 5 * time.Minute, "5m": 5 * time.Minute, "5 Mins": 5 * time.Minute,
		"1 minute": time.Minute, "10s": 10 * time.Second, "10 sec": 10 * time.Second, "1 second": time.Second,
		"90 seconds": 90 * time.Second, "250ms": 250 * time.Millisecond, "2 milliseconds": 2 * time.Millisecond,
		"3us": 3 * time.Microsecond, "3µs": 3 * time.Microsecond, "7 ns": 7, "1 hour": time.Hour, "2 hrs": 2 * time.Hour,
		"1h30m": 90 * time.Minute, "1h 30 min": 90 * time.Minute, "1.5h": 90 * time.Minute, " 1 day ": day, "2d": 2 * day,
		"1 week": 7 * day, "1 month": 30 * day, "6 months": 180 * day, "1 year": 365 * day, "2y": 730 * day,
		"0": 0, "0s": 0, "0 minutes": 0, "0.4ns": 0, "0.6ns": 1, "292 years": 292 * 365 * day,
	} {
		if got, err := interceptors.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
}

// C18: junk is an error.
//
// Case C18
func TestJunkIsNoDuration(t *testing.T) {
	for _, text := range []string{
		"", " ", "5", "5.", "minutes", "-5s", "+5s", "5 minuten", "5 minutes ago", "5 m i n", "1e3s", "0x5s", "1_000s",
		"1.2.3s", ".s", "..", "s5", "5s5", "NaN s", "Inf s", "5\ts", "٥s", "293 years", "99999999999999999999999y",
		"1" + strings.Repeat("0", 400) + "s", "00",
	} {
		if got, err := interceptors.ParseDuration(text); err == nil || !strings.Contains(err.Error(), "duration") {
			t.Errorf("%q: %v, %v, want an error that says what is wrong", text, got, err)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"5 minutes", "1h30m", "0", "0.1 month", "", "-1s", "1e9y", "9223372036854775807ns", "µs"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := interceptors.ParseDuration(text)
		if err != nil {
			return
		}
		if got < 0 {
			t.Fatalf("%q is negative: %v", text, got)
		}
		again, err := interceptors.ParseDuration(got.String())
		if err != nil {
			t.Fatalf("%q is %v, which is refused: %v", text, got, err)
		}
		if off := math.Abs(float64(again - got)); off > 1+float64(got)/1e12 {
			t.Fatalf("%q is %v, read again %v", text, got, again)
		}
	})
}
