package balancer

import (
	"encoding/json"
	"fmt"
	"time"
)

// Settings are the part of a policy's config that is the same for all policies
// of this module: they stand beside its own fields.
//
//	{"loadBalancingConfig": [{"meshlite_least_request": {
//	   "slowStart": {"window": "30s"},
//	   "ejection": {"consecutiveFailures": 3, "maxEjectionPercent": 20},
//	   "zone": {"callers": 0.25}}}]}
type Settings struct {
	SlowStart SlowStart `json:"slowStart"`
	Ejection  Ejection  `json:"ejection"`
	Zone      Zone      `json:"zone"`
}

// SlowStart gives an endpoint that is new, or back after it was away or ejected,
// its share gradually: of its weight max(minWeightPercent, 100 * (time/window) ^
// (1/aggression)) percent, as Envoy does. The endpoints that a channel begins with
// are not new.
type SlowStart struct {
	Window           Duration `json:"window"`           // "0s" turns it off. Default: 10s
	Aggression       float64  `json:"aggression"`       // above 1 is faster at first; 0.1 to 10. Default: 1
	MinWeightPercent float64  `json:"minWeightPercent"` // 1 to 100. Default: 10
}

// Ejection takes endpoints that fail out of rotation for a time, by what this
// process sees of them. The names are those of gRFC A50 where it has the thing.
type Ejection struct {
	Disabled bool `json:"disabled"`
	// ConsecutiveFailures is how many in a row eject. 0 is never. Default: 5.
	ConsecutiveFailures int `json:"consecutiveFailures"`
	// SuccessRateMargin ejects an endpoint whose rate of success within the interval is
	// lower than that of all others together by this much: 0 to 1, 0 is never. So a
	// failure that all have in common ejects nobody. Default: 0.2.
	SuccessRateMargin float64 `json:"successRateMargin"`
	// RequestVolume is how many calls an endpoint must have had within the interval
	// for its rate to count. Default: 20.
	RequestVolume int `json:"requestVolume"`
	// Interval is the window in which calls are counted. Of channels that share a table
	// the one that was configured last decides for all. Default: 10s.
	Interval Duration `json:"interval"`
	// BaseEjectionTime is the first time out; each that follows without a time of
	// health between is twice the last one, up to MaxEjectionTime. Then one real
	// call probes the endpoint. Defaults: 10s, 5m.
	BaseEjectionTime Duration `json:"baseEjectionTime"`
	MaxEjectionTime  Duration `json:"maxEjectionTime"`
	// MaxEjectionPercent is the largest part of all endpoints that may be out at
	// once, rounded down. Default: 50.
	MaxEjectionPercent float64 `json:"maxEjectionPercent"`
	// PanicPercent: when fewer of all endpoints can be used, those that are ejected
	// are used again, since the rest could not carry their load. Default: 30.
	PanicPercent float64 `json:"panicPercent"`
}

// Zone keeps calls in the caller's zone. It needs the zone of the channel and those of the
// instances.
type Zone struct {
	Disabled bool `json:"disabled"`
	// Callers is the part of all callers that run in this zone, above 0 and up to 1.
	// The zone's endpoints can carry them if they are the same part of all capacity.
	// Default: callers are spread over the zones evenly.
	Callers float64 `json:"callers"`
}

// Duration is a time.Duration that JSON has as text: "10s", "1.5s", "5m".
type Duration time.Duration

// UnmarshalJSON reads the syntax of time.ParseDuration, which includes gRPC's.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var word string
	if err := json.Unmarshal(text, &word); err != nil {
		return fmt.Errorf(`duration %s: write text such as "10s"`, text)
	}
	parsed, err := time.ParseDuration(word)
	if err != nil {
		return fmt.Errorf(`duration %q: write a number and a unit, such as "10s"`, word)
	}
	*d = Duration(parsed)
	return nil
}

// DefaultSettings are those of a policy whose config does not say otherwise.
func DefaultSettings() Settings {
	return Settings{
		SlowStart: SlowStart{Window: Duration(10 * time.Second), Aggression: 1, MinWeightPercent: 10},
		Ejection: Ejection{
			ConsecutiveFailures: 5, SuccessRateMargin: 0.2, RequestVolume: 20, Interval: Duration(10 * time.Second),
			BaseEjectionTime: Duration(10 * time.Second), MaxEjectionTime: Duration(5 * time.Minute),
			MaxEjectionPercent: 50, PanicPercent: 30,
		},
	}
}

// parseSettings reads the part of a policy's config that all policies share.
func parseSettings(text json.RawMessage) (Settings, error) {
	s := DefaultSettings()
	if err := json.Unmarshal(text, &s); err != nil {
		return Settings{}, err
	}
	return s, s.Validate()
}

// longest bounds every time in the settings.
const longest = Duration(24 * time.Hour)

// Validate returns an error that names a field out of its range. A Settings of zero values
// is not valid: begin with [DefaultSettings].
func (s Settings) Validate() error {
	e := s.Ejection
	for _, wrong := range []error{
		within("slowStart.window", s.SlowStart.Window, 0, longest),
		within("slowStart.aggression", s.SlowStart.Aggression, 0.1, 10),
		within("slowStart.minWeightPercent", s.SlowStart.MinWeightPercent, 1, 100),
		within("ejection.consecutiveFailures", e.ConsecutiveFailures, 0, 1_000_000),
		within("ejection.successRateMargin", e.SuccessRateMargin, 0, 1),
		within("ejection.requestVolume", e.RequestVolume, 1, 1_000_000),
		within("ejection.interval", e.Interval, Duration(time.Second), longest),
		within("ejection.baseEjectionTime", e.BaseEjectionTime, Duration(time.Millisecond), longest),
		within("ejection.maxEjectionTime", e.MaxEjectionTime, e.BaseEjectionTime, longest),
		within("ejection.maxEjectionPercent", e.MaxEjectionPercent, 0, 100),
		within("ejection.panicPercent", e.PanicPercent, 0, 100),
		within("zone.callers", s.Zone.Callers, 0, 1),
	} {
		if wrong != nil {
			return wrong
		}
	}
	return nil
}

// String writes d as it is read.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d as it is read.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func within[T int | float64 | Duration](field string, value, least, most T) error {
	if value >= least && value <= most {
		return nil
	}
	return fmt.Errorf("%s %v is not in %v to %v", field, value, least, most)
}
