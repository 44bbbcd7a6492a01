package balancer

import (
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// measured is an attempt whose time is taken.
type measured struct {
	member *member
	lease  lease // of a probe, 0 if it is none
	kind   attempt.Kind
	start  time.Duration
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
	kind := r.table.kindOf(method)
	if kind == attempt.Unknown && record != nil {
		kind = record.Kind()
	}
	m := newMeasured(kind != attempt.Stream)
	m.member, m.lease, m.inner, m.kind = r.member, lease, inner, kind
	m.start = r.table.now()
	r.table.checkStalls(m.start)
	if kind == attempt.Stream {
		m.member.streams.Add(1)
		if record != nil {
			record.Await(m.responded)
		}
	}
	return m.done
}

// responded is called when a stream has its first response.
func (m *measured) responded() {
	m.sample()
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
	if m.kind == attempt.Unary && (o == answered && info.Err == nil || o == failed && codeOf(info.Err) == codes.DeadlineExceeded) {
		m.sample()
	}
	m.prove(o)
	member := m.member
	if m.kind == attempt.Stream {
		member.streams.Add(-1)
	}
	member.Endpoint.end(o, &member.ejection)
	if m.kind != attempt.Stream {
		m.member, m.inner = nil, nil
		unaries.Put(m)
	}
}

// maxMethods caps the methods that a table remembers the kind of, and maxMethod their
// length: a program that forwards what it is asked for has no contracts of it.
const (
	maxMethods = 1024
	maxMethod  = 1024
)

// kindOf is what the contracts that the program has the code of say of a method. Each
// is looked up once.
func (t *Table) kindOf(method string) attempt.Kind {
	kinds := t.kinds.Load()
	if kinds != nil {
		if k, known := (*kinds)[method]; known {
			return k
		}
		if len(*kinds) >= maxMethods {
			return attempt.Unknown
		}
	}
	if len(method) > maxMethod {
		return attempt.Unknown
	}
	next := map[string]attempt.Kind{method: lookUp(method)}
	if kinds != nil {
		maps.Copy(next, *kinds)
	}
	t.kinds.CompareAndSwap(kinds, &next) // who loses looks it up again
	return next[method]
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
