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
	probe  bool
	kind   kind
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
func measure(r *Ready, method string, record *attempt.Record, inner func(balancer.DoneInfo)) func(balancer.DoneInfo) {
	k := r.table.kindOf(method)
	switch {
	case record == nil || k == stream:
	case record.Stream():
		k = stream
	default:
		k = unary
	}
	m := newMeasured(k != stream)
	m.member, m.probe, m.inner, m.kind = r.member, r.probe, inner, k
	m.start = r.table.now()
	r.table.checkup(m.start)
	if k == stream && record != nil {
		record.Await(m.sample)
	}
	return m.done
}

func (m *measured) sample() {
	now := m.member.table.now()
	m.member.latency.add(now-m.start, now)
}

// end counts the attempt. One that failed at once says nothing of how long an answer
// takes, one that ran into its deadline does.
func (m *measured) end(info balancer.DoneInfo) {
	if m.inner != nil {
		m.inner(info)
	}
	o := outcomeOf(info)
	if m.kind == unary && (o == answered && info.Err == nil || o == failed && codeOf(info.Err) == codes.DeadlineExceeded) {
		m.sample()
	}
	member := m.member
	if m.probe {
		member.table.proved(member.Endpoint, o, &member.ejection)
	}
	member.Endpoint.end(o, &member.ejection)
	if m.kind != stream {
		m.member, m.inner = nil, nil
		unaries.Put(m)
	}
}

// maxMethods caps the methods that a table remembers the kind of.
const maxMethods = 1024

// kind is what the contracts that the program has the code of say of a method.
type kind uint8

const (
	unknown kind = iota
	unary
	stream
)

// kindOf looks a method up once.
func (t *Table) kindOf(method string) kind {
	if kinds := t.kinds.Load(); kinds != nil {
		if k, known := (*kinds)[method]; known {
			return k
		}
	}
	k := lookUp(method)
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[string]kind{method: k}
	if kinds := t.kinds.Load(); kinds != nil {
		if len(*kinds) >= maxMethods {
			return k
		}
		maps.Copy(next, *kinds)
	}
	t.kinds.Store(&next)
	return k
}

func lookUp(method string) kind {
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return unknown
	}
	switch m, ok := found.(protoreflect.MethodDescriptor); {
	case !ok:
		return unknown
	case m.IsStreamingClient() || m.IsStreamingServer():
		return stream
	default:
		return unary
	}
}
