package callstream

import (
	"context"
	"sync/atomic"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/meshlite-go/meshlite/internal/rpc"
	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

// Client is the part of one channel. It is safe for concurrent use. A nil one leaves all as it is.
type Client struct {
	picker      atomic.Pointer[picker] // the latest of the channel's policy
	connections connections
	// configs are what isPlain has read of the latest service config, by method. It is not nil where
	// picker is not.
	configs atomic.Pointer[rpc.Table[string, bool]]
}

// chain has the interceptors of a channel.
type chain interface {
	UnaryClient() grpc.UnaryClientInterceptor
	StreamClient() grpc.StreamClientInterceptor
}

// Inside are the options of a channel for its chain, and the client inside of it; for the chain
// alone without a client. They belong behind all others, so that every interceptor runs outside of
// the client. The streams themselves pass the chain by.
func (c *Client) Inside(around chain) []grpc.DialOption {
	unary, stream := around.UnaryClient(), around.StreamClient()
	if c == nil {
		return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if Own(method) {
				return invoker(ctx, method, req, reply, cc, opts...)
			}
			return unary(ctx, method, req, reply, cc, invoker, opts...)
		}, c.unary),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if Own(method) {
				return streamer(ctx, desc, cc, method, opts...)
			}
			return stream(ctx, desc, cc, method, streamer, opts...)
		}),
	}
}

// unary carries a call over a stream of the connection that the policy picks, or leaves it to
// gRPC: with the same pick, so that no call counts twice.
func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	picker := c.picker.Load()
	request, response, ok := messages(req, reply)
	if picker == nil || !ok || Own(method) || !c.isPlain(cc, method) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	asked, ok := optionsOf(opts)
	if !ok {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	result, err := picker.Picker.Pick(balancer.PickInfo{FullMethodName: method, Ctx: ctx})
	if err != nil { // gRPC knows how to wait, or what to return
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	if on := c.connections.of(result.SubConn); on != nil {
		on.ready(c, cc)
		call := call{method: method, request: request, response: response, asked: asked, picked: result}
		if err, done := call.over(ctx, on, cc); done {
			asked.finish(err)
			return err
		}
	}
	to := &picked{client: c, from: picker, result: result}
	defer to.release()
	return invoker(withPicked(ctx, to), method, req, reply, cc, opts...)
}

// messages are those of a call that is in protobuf, as gRPC's default codec has it.
func messages(req, reply any) (request, response proto.Message, ok bool) {
	request, isRequest := message(req)
	response, isResponse := message(reply)
	return request, response, isRequest && isResponse
}

// message is v as gRPC's default codec takes it: of protobuf's old API, too.
func message(v any) (proto.Message, bool) {
	switch v := v.(type) {
	case proto.Message:
		return v, true
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(v), true
	default:
		return nil, false
	}
}

// isPlain reports whether the service config asks nothing of the calls of method, or of streams,
// that gRPC alone does.
func (c *Client) isPlain(cc *grpc.ClientConn, method string) bool {
	read := func() bool {
		return plain(cc.GetMethodConfig(method)) && plain(cc.GetMethodConfig(callv1.CallService_Serve_FullMethodName))
	}
	is, ok := c.configs.Load().Of(method, read)
	return is || !ok && read()
}

//lint:ignore SA1019 there is no other way to ask
func plain(c grpc.MethodConfig) bool {
	return c.Timeout == nil && c.MaxReqSize == nil && c.MaxRespSize == nil && c.RetryPolicy == nil
}

// asked is what the options of a call ask to be filled or called.
type asked struct {
	header, trailer []*metadata.MD
	peer            []*peer.Peer
	onFinish        []func(error)
}

// optionsOf reports false for options that only gRPC can obey.
func optionsOf(opts []grpc.CallOption) (a asked, ok bool) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			a.header = append(a.header, o.HeaderAddr)
		case grpc.TrailerCallOption:
			a.trailer = append(a.trailer, o.TrailerAddr)
		case grpc.PeerCallOption:
			a.peer = append(a.peer, o.PeerAddr)
		case grpc.OnFinishCallOption:
			a.onFinish = append(a.onFinish, o.OnFinish)
		case grpc.FailFastCallOption, grpc.StaticMethodCallOption, grpc.EmptyCallOption: // obeyed, or of no effect
		default:
			return a, false
		}
	}
	return a, true
}

func (a *asked) finish(err error) {
	for _, f := range a.onFinish {
		f(err)
	}
}

func (a *asked) setPeer(ctx context.Context) {
	if len(a.peer) == 0 {
		return
	}
	if from, ok := peer.FromContext(ctx); ok {
		for _, to := range a.peer {
			*to = *from
		}
	}
}

// call is one call whose connection is picked.
type call struct {
	method            string
	request, response proto.Message
	asked             asked
	picked            balancer.PickResult
}

// over makes the call over a stream of on. It reports false if no handler has seen it: then gRPC
// makes it, and says so if its context has ended.
func (c *call) over(ctx context.Context, on *connection, cc *grpc.ClientConn) (error, bool) {
	s := on.take(c.method)
	if s == nil {
		return nil, false
	}
	if !c.write(ctx, s) {
		on.put(s, s.opened != nil)
		return nil, false
	}
	stop := context.AfterFunc(ctx, s.cancel)
	came, err := s.exchange(cc)
	kept := stop() && came == answered
	defer func() { on.put(s, kept) }()
	switch came {
	case notSent:
		return nil, false
	case refused:
		on.refuse()
		return nil, false
	}
	if came == answered && s.response.GetUnknownMethod() {
		on.lacks(c.method)
		return nil, false
	}
	c.asked.setPeer(s.opened.Context())
	if came == answered {
		return c.read(s), true
	}
	if ctx.Err() != nil {
		err = status.FromContextError(ctx.Err()).Err()
	}
	c.done(balancer.DoneInfo{Err: err, BytesSent: true})
	return err, true
}

func (c *call) done(info balancer.DoneInfo) {
	if c.picked.Done != nil {
		c.picked.Done(info)
	}
}

// write fills the request of s. It reports false for a call that belongs on a stream of its own,
// also since gRPC has to say what is wrong with it.
func (c *call) write(ctx context.Context, s *stream) bool {
	s.request.Reset()
	s.request.Method = c.method
	if deadline, ok := ctx.Deadline(); ok {
		if s.request.TimeoutNanos = int64(time.Until(deadline)); s.request.TimeoutNanos <= 0 {
			return false
		}
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	if c.picked.Metadata != nil {
		md = metadata.Join(md, c.picked.Metadata)
	}
	if !carried(md) || proto.Size(c.request) > maxMessage {
		return false
	}
	s.request.Metadata = encode(md)
	var err error
	s.request.Message, err = proto.Marshal(c.request)
	return err == nil && ctx.Err() == nil
}

// read takes the response of s, and returns the error of the call.
func (c *call) read(s *stream) error {
	r := &s.response
	info := balancer.DoneInfo{BytesSent: true, BytesReceived: true}
	if len(r.GetTrailer()) > 0 || r.GetCode() != 0 {
		info.Trailer = metadata.MD{}
		decode(info.Trailer, r.GetTrailer())
	}
	if r.GetCode() != 0 {
		info.Err = failure(r, info.Trailer)
	} else if err := proto.Unmarshal(r.GetMessage(), c.response); err != nil {
		info.Err = status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	for _, to := range c.asked.header {
		*to = metadata.MD{}
		if decode(*to, r.GetHeader()); !onlyTrailer(r) {
			to.Set("content-type", contentType)
		}
	}
	for _, to := range c.asked.trailer {
		*to = info.Trailer.Copy() // each option has its own, to change
	}
	c.done(info)
	return info.Err
}

// failure is the error of a response, with what gRPC shows of it in the trailer.
func failure(r *callv1.ServeResponse, trailer metadata.MD) error {
	all := &spb.Status{Code: r.GetCode(), Message: r.GetText(), Details: r.GetDetails()}
	if onlyTrailer(r) {
		trailer.Set("content-type", contentType)
	}
	if len(r.GetDetails()) > 0 {
		text, _ := proto.Marshal(all)
		trailer.Set("grpc-status-details-bin", string(text))
	}
	return status.FromProto(all).Err()
}

// onlyTrailer reports whether gRPC would have answered without a header.
func onlyTrailer(r *callv1.ServeResponse) bool { return r.GetCode() != 0 && len(r.GetHeader()) == 0 }

const contentType = "application/grpc"
