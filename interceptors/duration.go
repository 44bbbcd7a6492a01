package interceptors

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration as people write it: "90s", "5 minutes",
// "1 day", "1h30m". A month is 30 days and a year 365. A number without a unit,
// a negative one, and what does not fit a [time.Duration] are errors.
func ParseDuration(text string) (time.Duration, error) {
	rest := strings.TrimSpace(text)
	if rest == "0" {
		return 0, nil
	}
	var total float64
	for first := true; first || rest != ""; first = false {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		number, err := strconv.ParseFloat(rest[:digits], 64)
		if err != nil {
			return 0, durationError(text)
		}
		rest = strings.TrimLeft(rest[digits:], " ")
		letters := len(rest) - len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzµμABCDEFGHIJKLMNOPQRSTUVWXYZ"))
		unit, known := unitOf(strings.ToLower(rest[:letters]))
		if !known {
			return 0, durationError(text)
		}
		total += number * float64(unit)
		rest = strings.TrimLeft(rest[letters:], " ")
	}
	if total >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too long: the longest duration is 292 years", text)
	}
	return time.Duration(math.Round(total)), nil
}

func durationError(text string) error {
	return fmt.Errorf(`%q is not a duration: write a number and a unit, such as "90s", "5 minutes" or "1 day"`, text)
}

func unitOf(name string) (time.Duration, bool) {
	const day = 24 * time.Hour
	switch name {
	case "ns", "nanosecond", "nanoseconds":
		return time.Nanosecond, true
	case "us", "µs", "μs", "microsecond", "microseconds":
		return time.Microsecond, true
	case "ms", "msec", "millisecond", "milliseconds":
		return time.Millisecond, true
	case "s", "sec", "secs", "second", "seconds":
		return time.Second, true
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute, true
	case "h", "hr", "hrs", "hour", "hours":
		return time.Hour, true
	case "d", "day", "days":
		return day, true
	case "w", "week", "weeks":
		return 7 * day, true
	case "month", "months":
		return 30 * day, true
	case "y", "year", "years":
		return 365 * day, true
	default:
		return 0, false
	}
}
