package balancer

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// measured is an attempt whose time is taken, or one whose record is notified.
type measured struct {
	member *member
	record *attempt.Record // nil is none
	timed  bool
	lease  lease // of a probe, 0 if it is none
	method traits
	start  time.Duration
	heard  atomic.Bool             // the first response of a stream was counted
	inner  func(balancer.DoneInfo) // of the child, may be nil
	done   func(balancer.DoneInfo) // end, made once
}

// unaries are those of the past, to be used again.
var unaries sync.Pool

func newMeasured(again bool) *measured {
	if again {
		if m, ok := unaries.Get().(*measured); ok {
			return m
		}
	}
	m := &measured{}
	m.done = m.end
	return m
}

// measure begins to measure an attempt and is called when it ends. Of a stream the
// first response is measured, which only a record tells; it may come while the stream
// ends, so streams are not used again. What is not known to be unary is not measured.
func measure(r *Ready, method string, record *attempt.Record, lease lease, inner func(balancer.DoneInfo)) func(balancer.DoneInfo) {
	traits := r.table.traitsOf(method)
	if traits.kind == attempt.Unknown && record != nil {
		traits.kind = record.Kind()
	}
	m := newMeasured(traits.kind != attempt.Stream)
	m.member, m.record, m.timed = r.member, record, true
	m.lease, m.inner, m.method = lease, inner, traits
	m.start = r.table.now()
	r.table.checkStalls(m.start)
	if traits.kind == attempt.Stream {
		m.member.streams.Add(1)
		if record != nil {
			record.Await(m.responded)
		}
	}
	return m.done
}

// report only notifies record of how an attempt ends. What it costs is a pool's Get and Put.
func report(r *Ready, record *attempt.Record) func(balancer.DoneInfo) {
	m := newMeasured(true)
	m.member, m.record, m.timed = r.member, record, false
	m.lease, m.method = 0, traits{kind: attempt.Unary}
	return m.done
}

// responded is called when a stream has its first response.
func (m *measured) responded() {
	m.sample()
	if m.member.table.comparing.Load() && m.heard.CompareAndSwap(false, true) {
		m.member.answersTo(m.method.slot).ended.Add(1)
	}
	m.prove(answered)
}

func (m *measured) sample() {
	now := m.member.table.now()
	m.member.latency.add(now-m.start, now)
}

// prove ends a probe. Only the first verdict counts.
func (m *measured) prove(o outcome) {
	if m.lease != 0 {
		m.member.table.proved(m.member.Endpoint, m.lease, o, &m.member.ejection)
	}
}

// end counts the attempt. One that failed at once says nothing of how long an answer
// takes, one that ran into its deadline does.
func (m *measured) end(info balancer.DoneInfo) {
	if m.inner != nil {
		m.inner(info)
	}
	o := outcomeOf(info)
	if m.record != nil {
		m.record.Ended(endOf(info))
	}
	if m.timed && m.method.kind == attempt.Unary && (o == answered && info.Err == nil || o == failed && codeOf(info.Err) == codes.DeadlineExceeded) {
		m.sample()
	}
	m.prove(o)
	member := m.member
	if m.method.kind == attempt.Stream {
		member.streams.Add(-1)
	}
	member.Endpoint.end(o, &member.ejection)
	m.compare(o, info)
	if m.method.kind != attempt.Stream {
		m.member, m.record, m.inner = nil, nil, nil
		unaries.Put(m)
	}
}

// compare counts the answer for the comparison with those of other endpoints. A stream
// counts when its first response comes, and again only as refused.
func (m *measured) compare(o outcome, info balancer.DoneInfo) {
	t := m.member.table
	if !t.comparing.Load() || o == silent || !m.timed {
		return
	}
	refused := info.Err != nil || o == refused
	if info.Err == nil && isAnswer(info) { // gRPC reports no error if it found the end while it sent
		switch m.method.kind {
		case attempt.Unary: // an answer would have had a message
			refused = true
		case attempt.Stream:
			if !refused && !m.heard.Load() {
				return // it counts when the caller has seen that it ended well
			}
		}
	}
	counts := m.member.answersTo(m.method.slot)
	if m.method.kind != attempt.Stream || m.heard.CompareAndSwap(false, true) {
		counts.ended.Add(1)
	}
	if refused {
		counts.refused.Add(1)
		t.compareSoon(t.now())
	}
}

// maxMethods caps the methods that a table remembers the traits of, and maxMethod their
// length: a program that forwards what it is asked for has no contracts of it.
const (
	maxMethods = 1024
	maxMethod  = 1024
)

// traits are what a table remembers of a method.
type traits struct {
	kind attempt.Kind // by the contracts that the program has the code of
	slot uint8        // where its answers are counted
}

// traitsOf looks each method up once.
func (t *Table) traitsOf(method string) traits {
	var all map[string]traits
	known := t.traits.Load()
	if known != nil {
		all = *known
		if one, ok := all[method]; ok {
			return one
		}
	}
	one := traits{attempt.Unknown, comparedMethods - 1}
	if len(all) >= maxMethods || len(method) > maxMethod {
		return one
	}
	one = traits{lookUp(method), uint8(min(len(all), comparedMethods-1))}
	next := map[string]traits{method: one}
	maps.Copy(next, all)
	t.traits.CompareAndSwap(known, &next) // the loser looks it up again
	return one
}

func lookUp(method string) attempt.Kind {
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return attempt.Unknown
	}
	switch m, ok := found.(protoreflect.MethodDescriptor); {
	case !ok:
		return attempt.Unknown
	case m.IsStreamingClient() || m.IsStreamingServer():
		return attempt.Stream
	default:
		return attempt.Unary
	}
}
