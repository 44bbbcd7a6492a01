package mirror

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// part is the concern in the calls of one method.
type part struct {
	mirror  *Mirror
	method  string
	to      string // the target
	percent float64
	sample  sample
	compare bool
	ignored map[string]bool // paths
	timeout time.Duration
	counts  *counts
}

// part is nil for a method that is not mirrored.
func (m *Mirror) part(meta *interceptors.CallMeta) *part {
	rule := meta.Policy.GetMirror()
	if rule.GetPercent() == 0 || !meta.Mirrorable() {
		return nil
	}
	p := &part{
		mirror: m, method: meta.FullMethod, to: rule.GetTarget(), percent: rule.GetPercent(),
		compare: rule.GetCompare(), ignored: map[string]bool{}, timeout: timeoutOf(meta),
		counts: m.countsOf(id{meta.FullMethod, rule.GetTarget()}),
	}
	p.sample.set(rule.GetPercent())
	for _, path := range rule.GetIgnore() {
		p.ignored[path] = true
	}
	return p
}

// sample picks calls.
type sample struct {
	turn  atomic.Uint64
	steps uint64 // of interceptors.MirrorSteps
}

// stride is near MirrorSteps divided by the golden ratio, so that what is picked is spread evenly,
// and has no factor in common with it, so that of any MirrorSteps calls in a row exactly the
// percent is picked.
const stride = 6181

// set begins at any turn, so that clients that are started together are not in step.
func (s *sample) set(percent float64) {
	s.steps = uint64(math.Round(percent * interceptors.MirrorSteps / 100))
	s.turn.Store(rand.Uint64N(interceptors.MirrorSteps))
}

func (s *sample) next() bool {
	return s.turn.Add(1)%interceptors.MirrorSteps*stride%interceptors.MirrorSteps < s.steps
}

// call copies one call of many, once it has ended.
func (p *part) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
	err := invoker(ctx, method, req, reply, cc, opts...)
	if isSent(record, err) && !isMarked(ctx) && p.sample.next() {
		p.mirror.copy(ctx, p, req, reply, err, opts)
	}
	return err
}

// isMarked reports whether the call is part of a copy.
func isMarked(ctx context.Context) bool {
	return len(metadata.ValueFromOutgoingContext(ctx, wire.MirrorKey)) > 0
}

// isSent reports whether the call has reached the network. Policies of other modules record
// nothing, and then it is known of calls that were answered only.
func isSent(record *attempt.Record, err error) bool {
	return err == nil || record.Picked() != nil || record.Latest().Picked() != nil
}

const minAnswer = 64 << 10 // bytes that the answer to a copy may have in any case

// copied is a call that is sent again.
type copied struct {
	*part
	*target
	ctx     context.Context // of the caller, without its end
	options []grpc.CallOption
	request []byte
	// answer is the caller's, nil if it is not compared; code is that of its call.
	answer  []byte
	code    codes.Code
	reply   protoreflect.MessageType
	most    int // bytes of the answer
	size    int // bytes of all, for the bound
	evicted *target
	copying *sync.WaitGroup // of the room, since it was opened
}

// copy runs in the goroutine of the caller, which has its answer and waits for nothing.
func (m *Mirror) copy(ctx context.Context, p *part, req, reply any, err error, opts []grpc.CallOption) {
	request, isProto := req.(proto.Message)
	answer, answerIsProto := reply.(proto.Message)
	options, ok := passedOn(opts)
	if !isProto || !answerIsProto || !ok {
		p.counts.drop(droppedMessage)
		return
	}
	c := &copied{part: p, options: options, code: rpc.Code(err), reply: answer.ProtoReflect().Type()}
	answerSize := 0
	if err == nil {
		answerSize = proto.Size(answer)
	}
	c.most = max(minAnswer, 2*answerSize)
	c.size = proto.Size(request) + c.most
	compared := p.compare && ctx.Err() == nil // a caller that has left has no answer to compare
	if compared {
		c.size += answerSize
	}
	if why, ok := m.room.admit(c); !ok {
		p.counts.drop(why)
		return
	}
	if c.request, err = proto.Marshal(request); err == nil && compared {
		c.answer, err = marshalAnswer(answer, c.code)
	}
	if err != nil {
		p.counts.drop(droppedMessage)
		go m.room.end(c)
		return
	}
	c.ctx = contextOf(ctx)
	go m.send(c)
}

// marshalAnswer is not nil: an answer without fields is compared, too.
func marshalAnswer(answer proto.Message, code codes.Code) ([]byte, error) {
	if code != codes.OK {
		return []byte{}, nil
	}
	return proto.MarshalOptions{}.MarshalAppend([]byte{}, answer)
}

// passedOn are the options of a call that its copy has, too: those about what is sent. The others
// write to the caller's variables or are about its connection. A copy is sent as protobuf; it is
// false if the caller has another codec.
func passedOn(opts []grpc.CallOption) (kept []grpc.CallOption, ok bool) {
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.PerRPCCredsCallOption, grpc.CompressorCallOption, grpc.MaxSendMsgSizeCallOption:
			kept = append(kept, opt)
		case grpc.ContentSubtypeCallOption:
			if o.ContentSubtype != protoCodec {
				return nil, false
			}
		case grpc.ForceCodecCallOption, grpc.ForceCodecV2CallOption, grpc.CustomCodecCallOption:
			return nil, false
		}
	}
	return kept, true
}

// contextOf is that of a copy. It has the values of the caller's, from which credentials may make
// theirs, and no part in the caller's call.
func contextOf(ctx context.Context) context.Context {
	md := rpc.Outgoing(ctx)
	md.Set(wire.MirrorKey, "1")
	md.Delete(wire.ExplainKey)
	ctx = metadata.NewOutgoingContext(context.WithoutCancel(ctx), md)
	return interceptors.WithoutOutcome(attempt.NewContext(ctx, attempt.New()))
}

// send is the goroutine of a copy.
func (m *Mirror) send(c *copied) {
	defer m.room.end(c)
	c.counts.inFlight.Add(1)
	answer, err := m.invoke(c)
	c.counts.inFlight.Add(-1)
	code := rpc.Code(err)
	if c.until.Err() != nil && code == codes.Canceled {
		c.counts.drop(droppedClosed)
		return
	}
	c.counts.end(code, err)
	if err != nil && c.logged.Allow() {
		m.log.Warn("copies of calls fail", "channel", m.channel, "target", c.name, "method", c.method, "code", code.String(), "error", err)
	}
	if c.answer != nil {
		c.counts.compared(c.differences(answer.bytes, code))
	}
}

// invoke makes the call. Code of the program may run in it, such as credentials.
func (m *Mirror) invoke(c *copied) (answer message, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = rpc.ErrPanic
			if !m.panics.Allow() {
				return
			}
			m.log.Error("a copy of a call panics", "channel", m.channel, "target", c.name, "method", c.method, "panic", value, "stack", string(debug.Stack()))
		}
	}()
	conn, err := c.connect(m.dial)
	if err != nil {
		return answer, status.Error(codes.FailedPrecondition, err.Error())
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	defer context.AfterFunc(c.until, cancel)()
	answer.wanted = c.answer != nil
	options := append(c.options, grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(c.most))
	err = conn.Invoke(ctx, c.method, &message{bytes: c.request}, &answer, options...)
	return answer, err
}

// message is an encoded message. An answer is kept if it is wanted.
type message struct {
	bytes  []byte
	wanted bool
}

// codec sends messages that are encoded.
type codec struct{}

const protoCodec = "proto"

// Name is that of gRPC's own codec: so are the messages.
func (codec) Name() string { return protoCodec }

// Marshal returns the bytes.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*message).bytes)}, nil
}

// Unmarshal copies the bytes if they are wanted.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if answer := v.(*message); answer.wanted {
		answer.bytes = data.Materialize()
	}
	return nil
}
