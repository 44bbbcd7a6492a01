// Package cachecontrol reads the cache-control field of RFC 9111 (section 5.2) and RFC
// 5861, which gRPC carries as metadata, on requests and on answers:
//
//	said := cachecontrol.Parse(md.Get("cache-control"))
//	if said.Has(cachecontrol.NoStore) { ... }
//	age, limited := said.Seconds(cachecontrol.MaxAge)
package cachecontrol

import (
	"strings"
	"time"
)

// Directive is a set of directives.
type Directive uint16

// The directives that mean something to this cache. Others are passed over, as RFC 9111
// asks (section 5.2.3): no-transform, immutable and what may come.
const (
	NoStore Directive = 1 << iota
	NoCache
	OnlyIfCached
	Private
	MustRevalidate
	MaxAge
	SharedMaxAge
	MinFresh
	MaxStale
	StaleWhileRevalidate
	StaleIfError
	Public
	// ProxyRevalidate is set with MustRevalidate: to a shared cache both mean the same, but only
	// the latter admits answers to requests with an identity (section 3.5).
	ProxyRevalidate
)

// timed are the directives with a number of seconds.
const timed = MaxAge | SharedMaxAge | MinFresh | MaxStale | StaleWhileRevalidate | StaleIfError

// forever is what a number too large to be meant stands for, and max-stale without one
// (RFC 9111, 1.2.2 and 5.2.1.2).
const forever = (1 << 31) * time.Second

var names = map[string]Directive{
	"no-store":               NoStore,
	"no-cache":               NoCache,
	"only-if-cached":         OnlyIfCached,
	"private":                Private,
	"must-revalidate":        MustRevalidate,
	"proxy-revalidate":       MustRevalidate | ProxyRevalidate,
	"public":                 Public,
	"max-age":                MaxAge,
	"s-maxage":               SharedMaxAge,
	"min-fresh":              MinFresh,
	"max-stale":              MaxStale,
	"stale-while-revalidate": StaleWhileRevalidate,
	"stale-if-error":         StaleIfError,
}

// Directives is what one message says. The zero value says nothing.
type Directives struct {
	said    Directive
	seconds [11]uint32 // by the bit of a timed directive
}

// Has reports whether all of d was said.
func (d Directives) Has(all Directive) bool { return d.said&all == all }

// Any reports whether one of some was said.
func (d Directives) Any(some Directive) bool { return d.said&some != 0 }

// Seconds is the time that one timed directive gives, and whether it was said.
func (d Directives) Seconds(of Directive) (time.Duration, bool) {
	if of&timed == 0 || !d.Has(of) {
		return 0, false
	}
	return time.Duration(d.seconds[bit(of)]) * time.Second, true
}

// Parse reads all values of the field. What a directive says twice counts by the more
// careful one, and a time that cannot be read is no time, as section 4.2.1 encourages.
func Parse(values []string) Directives {
	var d Directives
	for _, value := range values {
		for value != "" {
			var one string
			one, value = cut(value)
			d.add(one)
		}
	}
	return d
}

func (d *Directives) add(text string) {
	name, argument, given := strings.Cut(text, "=")
	directive := names[strings.ToLower(strings.TrimSpace(name))]
	if directive&timed == 0 {
		d.said |= directive // one with field names, as no-cache="x", is meant for all of the answer
		return
	}
	seconds := readSeconds(strings.Trim(strings.TrimSpace(argument), `"`))
	if directive == MaxStale && !given {
		seconds = uint32(forever / time.Second)
	}
	at := &d.seconds[bit(directive)]
	twice := d.Has(directive)
	switch {
	case !twice:
		*at = seconds
	case directive == MinFresh:
		*at = max(*at, seconds)
	default:
		*at = min(*at, seconds)
	}
	d.said |= directive
}

// ParseSeconds reads the number of seconds of another field, such as age. Of a list the first
// counts. It reports false for junk; too much is 2^31 seconds (RFC 9111, 1.2.2).
func ParseSeconds(text string) (time.Duration, bool) {
	first, _, _ := strings.Cut(text, ",")
	first = strings.TrimSpace(first)
	if first == "" || strings.Trim(first, "0123456789") != "" {
		return 0, false
	}
	return time.Duration(readSeconds(first)) * time.Second, true
}

// readSeconds reads delta-seconds; junk is none, and too much is forever.
func readSeconds(text string) uint32 {
	const most = uint32(forever / time.Second)
	var n uint32
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0
		}
		if n >= most/10 {
			n = most
			continue
		}
		n = n*10 + uint32(c-'0')
	}
	return n
}

// cut takes the first directive from a list. A comma in quotes belongs to it.
func cut(list string) (first, rest string) {
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return list[:i], list[i+1:]
		}
	}
	return list, ""
}

func bit(of Directive) int {
	n := 0
	for ; of > 1; of >>= 1 {
		n++
	}
	return n
}
