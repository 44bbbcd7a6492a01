package cache

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

// terms are what the origin of an answer says of keeping it, in its cache-control. They
// make shorter what the policy allows, and never longer: a time is -1 where it says none.
type terms struct {
	maxAge, whileRevalidate, ifError time.Duration
	mustRevalidate                   bool
}

// termsOf reads the terms of an answer with this header, and reports whether this rule
// may keep it at all.
func (r *rule) termsOf(header metadata.MD) (terms, bool) {
	if slices.Contains(r.varyOf(header), "*") || len(header[notModified]) > 0 {
		return terms{}, false // the latter is an empty answer to somebody who has asked for it
	}
	if len(header["cache-control"]) == 0 {
		return terms{maxAge: -1, whileRevalidate: -1, ifError: -1}, true
	}
	said := cachecontrol.Parse(header["cache-control"])
	seconds := func(of cachecontrol.Directive) time.Duration {
		if d, ok := said.Seconds(of); ok {
			return d
		}
		return -1
	}
	t := terms{
		maxAge:          seconds(cachecontrol.MaxAge),
		whileRevalidate: seconds(cachecontrol.StaleWhileRevalidate),
		ifError:         seconds(cachecontrol.StaleIfError),
		mustRevalidate:  said.Has(cachecontrol.MustRevalidate),
	}
	if r.public && said.Has(cachecontrol.SharedMaxAge) { // RFC 9111, 5.2.2.10
		t.maxAge, t.mustRevalidate = seconds(cachecontrol.SharedMaxAge), true
	}
	if said.Has(cachecontrol.NoCache) { // it is to be asked about each time
		t.maxAge, t.mustRevalidate = 0, true
	}
	useless := t.maxAge == 0 && len(header["etag"]) == 0 && (t.mustRevalidate || r.staleWindow() == 0)
	return t, !useless && !said.Has(cachecontrol.NoStore) && !(r.public && said.Has(cachecontrol.Private))
}

// staleWindow is how long past its ttl the rule has a use for an answer.
func (r *rule) staleWindow() time.Duration { return max(r.whileRevalidate, r.ifError) }

// shorter is what policy and answer allow together.
func shorter(policy, answer time.Duration) time.Duration {
	if answer >= 0 && answer < policy {
		return answer
	}
	return policy
}

// ttlOf is how long e is fresh: not at all if the rule keeps no such failure any more.
func (r *rule) ttlOf(e *entry) time.Duration {
	if e.failure != nil {
		return shorter(r.negative[e.failure.Code()], e.terms.maxAge)
	}
	return shorter(r.ttl, e.terms.maxAge)
}

// standing is what an entry is good for.
type standing uint8

const (
	old        standing = iota // for nothing but to be asked about
	fresh                      // to be served
	revalidate                 // to be served while a newer one is fetched
	tolerated                  // to be served to this caller, who takes it as it is
)

// judge tells what e is good for, to a caller with these wishes (RFC 9111, 4.2 and
// 5.2.1; RFC 5861, 3).
func (r *rule) judge(e *entry, wishes cachecontrol.Directives, now time.Time) standing {
	if e == nil {
		return old
	}
	age, ttl := now.Sub(e.born), r.ttlOf(e)
	if limit, ok := wishes.Seconds(cachecontrol.MaxAge); ok && age > limit {
		return old
	}
	if more, ok := wishes.Seconds(cachecontrol.MinFresh); ok && ttl-age < more {
		return old
	}
	switch past := age - ttl; {
	case past < 0:
		return fresh
	case r.mustRevalidate || e.terms.mustRevalidate || e.failure != nil:
		return old
	case past < shorter(r.whileRevalidate, e.terms.whileRevalidate) && !wishes.Has(cachecontrol.MaxAge):
		return revalidate
	default:
		if most, ok := wishes.Seconds(cachecontrol.MaxStale); ok && past <= most && past < r.staleWindow() {
			return tolerated
		}
		return old
	}
}

// born is when an answer that has come now was made, as far as its age tells.
func (l load) born(header metadata.MD) time.Time {
	age, told := cachecontrol.ParseSeconds(first(header["age"]))
	if !told {
		return time.Now()
	}
	return l.began.Add(-age) // it was on its way, too (RFC 9111, 4.2.3)
}

// ageNow is the age of e as the age field tells it.
func (e *entry) ageNow() string {
	return strconv.FormatInt(int64(max(time.Since(e.born), 0)/time.Second), 10)
}

// varyOf is what metadata an answer says that it varies by, beside what is in the key. With
// a * it varies by what nobody can tell.
func (r *rule) varyOf(header metadata.MD) []string {
	var keys []string
	for _, value := range header["vary"] {
		for name := range strings.SplitSeq(value, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			if name != "" && !slices.Contains(r.vary, name) && !slices.Contains(keys, name) {
				keys = append(keys, name)
			}
		}
	}
	slices.Sort(keys)
	return keys
}
