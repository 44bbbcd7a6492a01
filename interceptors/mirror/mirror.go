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
// the concern passes the mark on from the context of a handler to the calls that are made with it.
package mirror

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// The bounds of a channel.
const (
	maxInFlight = 64
	maxBytes    = 16 << 20 // of encoded messages
	maxTargets  = 8
	minAnswer   = 64 << 10 // that the answer to a copy may have
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

	panics  guard.OncePerMinute
	copying sync.WaitGroup // copies, added to with mu held and while open

	mu       sync.Mutex
	opened   int             // by Open, less those by Close
	ctx      context.Context // of all copies; nil while closed
	cancel   context.CancelFunc
	inFlight int
	bytes    int
	targets  map[string]*target
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
func (m *Mirror) Open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.opened++; m.opened == 1 {
		m.ctx, m.cancel = context.WithCancel(context.Background())
		m.targets = map[string]*target{}
	}
}

// Close undoes one Open. The last one cancels the copies in flight, waits for their goroutines and
// closes the channels. Then calls are no longer copied, unless it is opened again.
func (m *Mirror) Close() {
	m.mu.Lock()
	if m.opened == 0 {
		m.mu.Unlock()
		return
	}
	if m.opened--; m.opened > 0 {
		m.mu.Unlock()
		return
	}
	m.cancel()
	all := m.targets
	m.ctx, m.targets = nil, nil
	m.mu.Unlock()
	m.copying.Wait()
	for _, t := range all {
		t.close()
	}
}

// Stage is [interceptors.Mirror].
func (m *Mirror) Stage() interceptors.Stage { return interceptors.Mirror }

// UnaryClient copies calls of a method with a rule that may run twice, and passes on the mark of a
// copy. That is one lookup in the context of every other call.
func (m *Mirror) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	p := m.part(meta)
	m.apply(meta.FullMethod, p)
	if p == nil {
		return passOnUnary
	}
	return p.call
}

// StreamClient passes on the mark of a copy.
func (m *Mirror) StreamClient(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if Mirrored(ctx) {
			ctx = marked(ctx)
		}
		return streamer(ctx, desc, cc, method, opts...)
	}
}

func passOnUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if Mirrored(ctx) {
		ctx = marked(ctx)
	}
	return invoker(ctx, method, req, reply, cc, opts...)
}

// Mirrored reports whether ctx is that of a handler that serves a copy, or a call that the handler
// of a copy has made. Nobody waits for its answer.
func Mirrored(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, wire.MirrorKey)) > 0
}

// isMarked reports whether the call that is made with ctx has the mark: a proxy passes metadata on.
func isMarked(ctx context.Context) bool {
	return len(metadata.ValueFromOutgoingContext(ctx, wire.MirrorKey)) > 0
}

// marked adds the mark to the call that is made with ctx.
func marked(ctx context.Context) context.Context {
	if isMarked(ctx) {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, wire.MirrorKey, "1")
}

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (m *Mirror) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, m).UnaryClient()
}

// StreamClientInterceptor is for use without a chain. It panics without policies.
func (m *Mirror) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, m).StreamClient()
}

// timeoutOf is that of a copy: the method's, within bounds.
func timeoutOf(meta *interceptors.CallMeta) time.Duration {
	const least, most = time.Second, 10 * time.Second
	if timeout := meta.Timeout(); timeout > 0 {
		return min(max(timeout, least), most)
	}
	return most
}
