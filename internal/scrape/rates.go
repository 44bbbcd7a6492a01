package scrape

import "math"

// Figures are of calls in some time: of a method, a process or a service. The zero value
// is that nothing is known, and figures are added to it.
type Figures struct {
	Rated    bool    // whether there was another reading before; else only InFlight is set
	Calls    float64 // ended, per second
	Failures float64 // of these, by a fault of the server
	InFlight float64 // now
	Latency  Histogram
	Served   float64 // calls that a cache has answered, per second
	Asked    float64 // of these calls, for which a cache was asked
	Refused  float64 // by a limit of rate or concurrency, per second
}

// Rates are what has happened in a process between two readings.
type Rates struct {
	// All methods together. Latency is of unary calls, as streams last as long as they like.
	All Figures
	// By package.Service/Method. Latency is of whatever calls these are.
	Methods map[string]Figures
}

// Since is what has happened after before, which is nil for the first reading. Where one
// counter has begun anew, so have all, as they end with their process: they count from 0.
//
// All.Served and Asked are of all caches of the process, on whichever side. Refused is of
// the methods that it serves or, of the side of clients, of all others.
func (s *Sample) Since(before *Sample, side Side) Rates {
	seconds := 0.0
	if before != nil {
		seconds = s.At.Sub(before.At).Seconds()
	}
	rated := seconds > 0
	if !rated || s.anew(before) {
		before = &Sample{}
	}
	r := Rates{All: Figures{Rated: rated}, Methods: map[string]Figures{}}
	for name, c := range s.calls[side] {
		f := Figures{Rated: rated, InFlight: c.inFlight}
		if rated {
			f.rate(c, before.calls[side][name], seconds)
			f.Served, f.Asked = s.cacheSince(before, name, seconds)
			f.Refused = s.refusedSince(before, name, side, seconds)
		}
		r.Methods[name] = f
		f.Served, f.Asked, f.Refused = 0, 0, 0 // which other methods have, too
		if c.stream {
			f.Latency = nil
		}
		r.All.Add(f)
	}
	if !rated {
		return r
	}
	for name := range s.cache {
		served, asked := s.cacheSince(before, name, seconds)
		r.All.Served, r.All.Asked = r.All.Served+served, r.All.Asked+asked
	}
	for name := range s.refused {
		r.All.Refused += s.refusedSince(before, name, side, seconds)
	}
	return r
}

// anew reports whether this is another process than before, at the same address.
func (s *Sample) anew(before *Sample) bool {
	if s.start != before.start {
		return true
	}
	for side, methods := range before.calls {
		for name, c := range methods {
			if now := s.calls[side][name]; now == nil || now.ended < c.ended {
				return true
			}
		}
	}
	return false
}

func (f *Figures) rate(now, before *counts, seconds float64) {
	if before == nil {
		before = &counts{}
	}
	f.Calls = added(now.ended, before.ended) / seconds
	f.Failures = min(added(now.failures, before.failures)/seconds, f.Calls)
	f.Latency = Histogram{}
	f.Latency.merge(now.latency.since(before.latency), 1/seconds)
}

func (s *Sample) cacheSince(before *Sample, name string, seconds float64) (served, asked float64) {
	now, was := s.cache[name], before.cache[name]
	if now == nil {
		return 0, 0
	}
	if was == nil {
		was = &cacheCounts{}
	}
	asked = added(now.asked, was.asked) / seconds
	return min(added(now.served, was.served)/seconds, asked), asked
}

func (s *Sample) refusedSince(before *Sample, name string, side Side, seconds float64) float64 {
	if _, serves := s.calls[Server][name]; serves != (side == Server) {
		return 0
	}
	return added(s.refused[name], before.refused[name]) / seconds
}

// added is what a counter has grown by. One that has decreased was reset.
func added(now, before float64) float64 {
	if now < before {
		return now
	}
	return now - before
}

// Add adds the figures of another process, or method.
func (f *Figures) Add(o Figures) {
	f.Rated = f.Rated || o.Rated
	f.Calls += o.Calls
	f.Failures += o.Failures
	f.InFlight += o.InFlight
	f.Served += o.Served
	f.Asked += o.Asked
	f.Refused += o.Refused
	if f.Latency == nil {
		f.Latency = Histogram{}
	}
	f.Latency.merge(o.Latency, 1)
}

// Success is the part of calls that did not fail by a fault of the server, NaN without calls.
func (f Figures) Success() float64 { return part(f.Calls-f.Failures, f.Calls) }

// CacheRatio is the part of calls of cached methods that a cache has answered, NaN without any.
func (f Figures) CacheRatio() float64 { return part(f.Served, f.Asked) }

func part(n, of float64) float64 {
	if !(of > 0) {
		return math.NaN()
	}
	return n / of
}
