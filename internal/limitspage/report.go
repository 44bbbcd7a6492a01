package limitspage

import (
	"math"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

// Page is the state of the rate limiters now.
func (l *Limits) Page() Page {
	page := Page{Limiters: []Limiter{}}
	for _, one := range l.listed() {
		page.Limiters = append(page.Limiters, report(one.Name, one.Value.Stats()))
	}
	return page
}

func report(name string, s ratelimit.Stats) Limiter {
	r := Limiter{
		Name: name, Counts: s.Counts,
		Keys: s.Keys, Forgotten: s.Forgotten, Limits: []Limit{}, HotKeys: []HotKey{},
	}
	for _, one := range s.Limits {
		r.Limits = append(r.Limits, Limit{
			Rule: Rule{
				ID:    ID{methodName(one.Method), one.Side, one.Name},
				Limit: one.Limit.Calls, PeriodSeconds: one.Limit.Period.Seconds(), Burst: one.Limit.Burst,
				By: one.By, Rules: one.Rules,
			},
			Refused: one.Refused, Shadowed: one.Shadowed,
		})
	}
	for _, one := range s.HotKeys {
		r.HotKeys = append(r.HotKeys, HotKey{
			ID:  ID{methodName(one.Method), one.Side, one.Name},
			Key: one.Key, Used: math.Round(one.Used*1000) / 1000, Remaining: one.Remaining,
			ResetSeconds: float64(one.Reset.Milliseconds()) / 1000,
		})
	}
	return r
}

// ConcurrencyPage is the state of the concurrency limiters now, the runtime's own first.
func (l *Limits) ConcurrencyPage() ConcurrencyPage {
	page := ConcurrencyPage{Limiters: []Concurrency{}}
	for _, one := range l.handlers.Named() {
		page.Limiters = append(page.Limiters, concurrent(one.Name, one.Value.Stats()))
	}
	return page
}

func concurrent(name string, methods []concurrency.Stats) Concurrency {
	c := Concurrency{Name: name, Methods: []Method{}}
	for _, m := range methods {
		c.Methods = append(c.Methods, Method{
			Method: methodName(m.Method), Adaptive: m.Adaptive, Limit: m.Limit, InFlight: m.InFlight,
			Admitted: m.Admitted, Refused: m.Refused, IgnoredPriorities: m.Ignored,
			BaseLatency: milliseconds(m.BaseLatency), SampleLatency: milliseconds(m.SampleLatency),
		})
	}
	return c
}

// methodName is how people and the other parts of the page write a method.
func methodName(full string) string { return strings.TrimPrefix(full, "/") }

// milliseconds are down to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
