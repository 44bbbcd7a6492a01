// Package mirror sends copies of unary calls to another service or subset, by the mirror rule of
// the policy, and compares the answers.
//
//	mirrored, err := mirror.New(func(target string) (mirror.Conn, error) { return dial(target) })
//	chain, err := interceptors.Chain(interceptors.Client, policies, mirrored)
//	mirrored.Open()
//	defer mirrored.Close()
//
// Channels of package meshlite do so by themselves.
//
// What is copied is a call that an instance was picked for: neither what a cache answers nor what
// a limit refuses, and once, however often it is tried. Of the calls of a method exactly the
// percent of the rule is copied, spread evenly.
//
// The caller has its answer before its copy is sent. In its goroutine the request is encoded, and
// with compare the answer: both are the caller's again when the call returns. A message is encoded
// and not cloned, since its size counts against the bound, and since it is sent as it is.
//
// A channel has at most 64 copies in flight, with 16 MiB of messages, to 8 targets; the others are
// dropped and counted. A copy has the timeout of the method, but at least 1 s and at most 10 s, and
// one attempt. It has the metadata of the call, credentials included, and x-meshlite-mirror. Its
// answer may have twice the size of the caller's, or 64 KiB.
//
// A copy is never copied, and neither are the calls that its handler makes, on however many hops:
// chains pass the mark on from the context of a handler to the calls that are made with it.
package mirror

import (
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Conn is a channel to a target.
type Conn interface {
	grpc.ClientConnInterface
	Close() error
}

// Dial makes the channel to the target of a rule, "service" or "service/subset". The channel
// connects with its first call, retries nothing, and mirrors nothing. It is closed when it is no
// longer used. Dial may be called by several goroutines at once.
type Dial func(target string) (Conn, error)

// Mirror is the concern, for one channel. It is safe for concurrent use.
type Mirror struct {
	dial    Dial
	channel string
	log     *slog.Logger
	counts  rpc.Table[id, *counts]
	others  counts // of those for which there is no room

	panics guard.OncePerMinute
	room   room
}

// Option is an option of [New].
type Option func(*Mirror)

// WithLogger logs that copies fail, once a minute for each target. Default, and nil:
// slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(m *Mirror) {
		if log != nil {
			m.log = log
		}
	}
}

// WithChannel names the channel in [Stats] and in logs, such as by its target.
func WithChannel(name string) Option { return func(m *Mirror) { m.channel = name } }

// New makes the concern of one channel: what to copy is in the policy. It is closed at first. A
// nil dial is an error.
func New(dial Dial, opts ...Option) (*Mirror, error) {
	if dial == nil {
		return nil, errors.New("mirror: New needs a function that dials the targets of rules")
	}
	m := &Mirror{dial: dial, log: slog.Default(), counts: rpc.Table[id, *counts]{Max: maxCounted}}
	for _, opt := range opts {
		opt(m)
	}
	return m, nil
}

// Open begins to copy. Every Open wants a Close.
func (m *Mirror) Open() { m.room.open() }

// Close undoes one Open. The last one cancels the copies in flight, waits for their goroutines and
// closes the channels. Then calls are no longer copied, unless it is opened again.
func (m *Mirror) Close() { m.room.close() }

// Stage is [interceptors.Mirror].
func (m *Mirror) Stage() interceptors.Stage { return interceptors.Mirror }

// UnaryClient copies calls of a method with a rule, if they may run twice.
func (m *Mirror) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	p := m.part(meta)
	m.apply(meta.FullMethod, p)
	if p == nil {
		return nil
	}
	return p.call
}

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (m *Mirror) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, m).UnaryClient()
}

// timeoutOf is that of a copy: the method's, within bounds.
func timeoutOf(meta *interceptors.CallMeta) time.Duration {
	const least, most = time.Second, 10 * time.Second
	if timeout := meta.Timeout(); timeout > 0 {
		return min(max(timeout, least), most)
	}
	return most
}
