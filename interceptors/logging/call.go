package logging

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// call is what is known of a call while it runs.
type call struct {
	ctx      context.Context // that it came with
	method   string
	unserved bool // nobody here serves the method
	start    time.Time
	record   *attempt.Record       // of a client
	outcome  *interceptors.Outcome // nil if nobody has listened yet
	messages *messages             // of a stream
}

// errPanic stands for the error of a call that ends by a panic: nobody further in has
// recovered from it.
var errPanic = status.Error(codes.Internal, "the call panicked")

// off reports whether no call of ctx can have a line.
func (p part) off(ctx context.Context) bool { return !p.logger.Enabled(ctx, p.highest) }

// listen begins to listen to a call if that can matter to its line.
func (p part) listen(c *call, ctx context.Context) context.Context {
	if p.listens || p.logger.Enabled(ctx, p.level(codes.OK)) {
		ctx, c.outcome = interceptors.Listen(ctx, p.side, p.name)
	}
	return ctx
}

func (p part) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	if p.off(ctx) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	p = p.limited()
	c := call{ctx: ctx, method: method, start: time.Now()}
	ctx, c.record = attempt.FromOrNew(p.listen(&c, ctx), attempt.Unary) // a failure must name its instance, and is not known beforehand
	err = errPanic
	defer func() { p.end(&c, err) }()
	err = invoker(ctx, method, req, reply, cc, opts...)
	return err
}

func (p part) serve(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	if p.off(ctx) {
		return handler(ctx, req)
	}
	p = p.limited()
	c := call{ctx: ctx, method: info.FullMethod, start: time.Now()}
	ctx = p.listen(&c, ctx)
	err = errPanic
	defer func() { p.end(&c, err) }()
	reply, err = handler(ctx, req)
	return reply, err
}
