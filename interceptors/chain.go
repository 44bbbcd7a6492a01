package interceptors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// unknown is what all methods are to the chain of a server that no service there has, no
// contract declares and no policy names. A peer makes them up, for a handler of unknown
// services to answer; one by one they would fill what concerns keep for each method. So
// are the methods of gRPC's own services that this server has not registered: they are
// exempt from nothing there.
const unknown = "other"

// Chained is one interceptor per kind of call, made of several concerns. It is
// safe for concurrent use and owns nothing: the concerns are closed by whoever
// made them.
type Chained struct {
	side     Side
	policies *Policies
	concerns []Concern
	attempts int // how many of concerns stand outside of the attempts of a call
	table    atomic.Pointer[table]
}

// table holds the parts of the methods called so far, under one policy. Those of methods
// beyond its bound are put together anew for each call.
type table struct {
	under   *layers
	methods rpc.Table[string, *parts]
}

// parts are the interceptors that are active for one method.
type parts struct {
	unaryClient  []grpc.UnaryClientInterceptor
	streamClient []grpc.StreamClientInterceptor
	unaryServer  []grpc.UnaryServerInterceptor
	streamServer []grpc.StreamServerInterceptor

	// The unary interceptors chained once, nil if one of them is the user's own and may pass
	// on any context: they find the rest of the call in it.
	invoker grpc.UnaryInvoker
	handler grpc.UnaryHandler
}

// Chain joins concerns for one side, sorted by their places whatever the order of the
// arguments. Several may stand at [User] and at [Authorization], in the order given. Another
// place that is taken twice, and one that this side does not have, are errors.
func Chain(side Side, policies *Policies, concerns ...Concern) (*Chained, error) {
	if policies == nil {
		return nil, errors.New("interceptors: Chain needs policies: NewPolicies(nil) has those of the contracts")
	}
	sorted, err := inOrder(side, concerns)
	if err != nil {
		return nil, err
	}
	attempts := slices.IndexFunc(sorted, func(c Concern) bool { return c.Stage() == RateLimit })
	if attempts < 0 {
		attempts = len(sorted)
	}
	return &Chained{side: side, policies: policies, concerns: sorted, attempts: attempts}, nil
}

// inOrder returns concerns sorted as [order] says.
func inOrder(side Side, concerns []Concern) ([]Concern, error) {
	places := order(side)
	at := map[Stage][]Concern{}
	for i, c := range concerns {
		if c == nil {
			return nil, fmt.Errorf("interceptors: concern %d is nil", i)
		}
		place := c.Stage()
		switch {
		case !slices.Contains(places, place):
			return nil, fmt.Errorf("interceptors: %v has no part on the %v side", place, side)
		case len(at[place]) > 0 && place != User && place != Authorization:
			return nil, fmt.Errorf("interceptors: %v is given twice: leave one of them out", place)
		}
		at[place] = append(at[place], c)
	}
	var sorted []Concern
	for _, place := range places {
		sorted = append(sorted, at[place]...)
	}
	return sorted, nil
}

// DialOptions installs a client chain in a grpc.NewClient. Interceptors given to
// gRPC beside it run outside of it or inside of it, by the order of the options.
func (c *Chained) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(c.UnaryClient()),
		grpc.WithChainStreamInterceptor(c.StreamClient()),
	}
}

// ServerOptions installs a server chain in a grpc.NewServer.
func (c *Chained) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(c.UnaryServer()),
		grpc.ChainStreamInterceptor(c.StreamServer()),
	}
}

// UnaryClient is the chain for unary calls on the client.
func (c *Chained) UnaryClient() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx = passOnMark(ctx)
		p := c.parts(method)
		if p.invoker == nil {
			return nextUnaryClient(p.unaryClient, invoker)(ctx, method, req, reply, cc, opts...)
		}
		call := &clientCall{last: invoker}
		call.Init(ctx, attempt.Unary)
		return p.invoker(call, method, req, reply, cc, opts...)
	}
}

// StreamClient is the chain for streams on the client. It notifies the picker of
// the first response.
func (c *Chained) StreamClient() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, record := attempt.FromOrNew(passOnMark(ctx), attempt.Stream)
		stream, err := nextStreamClient(c.parts(method).streamClient, streamer)(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return responding{stream, record}, nil
	}
}

// Mirrored reports whether ctx is that of a handler that serves a copy of a call, by a mirror rule,
// or a call that the handler of a copy has made. Nobody waits for its answer.
func Mirrored(ctx context.Context) bool {
	return rpc.HasIncoming(ctx, wire.MirrorKey)
}

// passOnMark marks the calls that the handler of a copy makes, so that they are not copied again, on
// however many hops. The handler may have replaced the outgoing metadata.
func passOnMark(ctx context.Context) context.Context {
	if !Mirrored(ctx) || len(metadata.ValueFromOutgoingContext(ctx, wire.MirrorKey)) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, wire.MirrorKey, "1")
}

// UnaryServer is the chain for unary calls on the server.
func (c *Chained) UnaryServer() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		p := c.parts(info.FullMethod)
		if p.handler == nil {
			return nextUnaryServer(p.unaryServer, info, handler)(ctx, req)
		}
		return p.handler(&serverCall{ctx, info, handler}, req)
	}
}

// StreamServer is the chain for streams on the server.
func (c *Chained) StreamServer() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		method := info.FullMethod
		if srv == nil && !c.policies.names(method) {
			method = unknown
		}
		return nextStreamServer(c.parts(method).streamServer, info, handler)(srv, stream)
	}
}

// clientCall is the context of a unary call on the client, with the record of its first
// attempt. It is not reused, so that what a user keeps of it stays valid.
type clientCall struct {
	attempt.Context
	last grpc.UnaryInvoker
}

type clientCallKey struct{}

// Value finds the call itself.
func (c *clientCall) Value(key any) any {
	if key == (clientCallKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// serverCall is the context of a unary call on the server.
type serverCall struct {
	context.Context
	info *grpc.UnaryServerInfo
	last grpc.UnaryHandler
}

type serverCallKey struct{}

// Value finds the call itself.
func (c *serverCall) Value(key any) any {
	if key == (serverCallKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// errForeignContext is for concerns that break the rule of [Concern].
var errForeignContext = status.Error(codes.Internal, "an interceptor passed on a context that is not derived from its own: derive it, or return interceptors.User from Stage")

// chainUnaryClient makes one invoker of parts for all calls.
func chainUnaryClient(parts []grpc.UnaryClientInterceptor) grpc.UnaryInvoker {
	next := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
		call, ok := ctx.Value(clientCallKey{}).(*clientCall)
		if !ok {
			return errForeignContext
		}
		return call.last(ctx, method, req, reply, cc, opts...)
	}
	for _, part := range slices.Backward(parts) {
		inner := next
		next = func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			return part(ctx, method, req, reply, cc, inner, opts...)
		}
	}
	return next
}

// chainUnaryServer makes one handler of parts for all calls.
func chainUnaryServer(parts []grpc.UnaryServerInterceptor) grpc.UnaryHandler {
	next := func(ctx context.Context, req any) (any, error) {
		call, ok := ctx.Value(serverCallKey{}).(*serverCall)
		if !ok {
			return nil, errForeignContext
		}
		return call.last(ctx, req)
	}
	for _, part := range slices.Backward(parts) {
		inner := next
		next = func(ctx context.Context, req any) (any, error) {
			call, ok := ctx.Value(serverCallKey{}).(*serverCall)
			if !ok {
				return nil, errForeignContext
			}
			return part(ctx, req, call.info, inner)
		}
	}
	return next
}

func nextUnaryClient(parts []grpc.UnaryClientInterceptor, last grpc.UnaryInvoker) grpc.UnaryInvoker {
	if len(parts) == 0 {
		return last
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
		return parts[0](ctx, method, req, reply, cc, nextUnaryClient(parts[1:], last), opts...)
	}
}

func nextStreamClient(parts []grpc.StreamClientInterceptor, last grpc.Streamer) grpc.Streamer {
	if len(parts) == 0 {
		return last
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return parts[0](ctx, desc, cc, method, nextStreamClient(parts[1:], last), opts...)
	}
}

func nextUnaryServer(parts []grpc.UnaryServerInterceptor, info *grpc.UnaryServerInfo, last grpc.UnaryHandler) grpc.UnaryHandler {
	if len(parts) == 0 {
		return last
	}
	return func(ctx context.Context, req any) (any, error) {
		return parts[0](ctx, req, info, nextUnaryServer(parts[1:], info, last))
	}
}

func nextStreamServer(parts []grpc.StreamServerInterceptor, info *grpc.StreamServerInfo, last grpc.StreamHandler) grpc.StreamHandler {
	if len(parts) == 0 {
		return last
	}
	return func(srv any, stream grpc.ServerStream) error {
		return parts[0](srv, stream, info, nextStreamServer(parts[1:], info, last))
	}
}

// parts are those of fullMethod, kept from the first call on until the policy
// changes.
func (c *Chained) parts(fullMethod string) *parts {
	t := c.current()
	if p, ok := t.methods.Get(fullMethod); ok {
		return p
	}
	p := c.build(c.policies.call(t.under, c.side, fullMethod))
	if len(fullMethod) > rpc.MaxName {
		return p
	}
	return t.methods.Add(fullMethod, p)
}

// current is the table of the policy in force.
func (c *Chained) current() *table {
	under := c.policies.current.Load()
	t := c.table.Load()
	if t != nil && t.under == under {
		return t
	}
	fresh := &table{under: under}
	if !c.table.CompareAndSwap(t, fresh) {
		if t = c.table.Load(); t.under == under {
			return t // of a call at the same time
		}
	}
	return fresh
}

// build asks each concern what it does for a method, and leaves out who is idle.
func (c *Chained) build(meta *CallMeta) *parts {
	p := &parts{}
	own := !slices.ContainsFunc(c.concerns, func(c Concern) bool { return c.Stage() == User })
	if c.side == Server {
		for _, concern := range c.concerns {
			p.addServer(concern, meta)
		}
		if own && len(p.unaryServer) > 0 {
			p.handler = chainUnaryServer(p.unaryServer)
		}
		return p
	}
	for _, concern := range c.concerns[:c.attempts] {
		p.addClient(concern, meta)
	}
	for _, concern := range c.concerns {
		p.addAttempt(concern, meta)
	}
	for _, concern := range c.concerns[c.attempts:] {
		p.addClient(concern, meta)
	}
	if own && len(p.unaryClient) > 0 {
		p.invoker = chainUnaryClient(p.unaryClient)
	}
	return p
}

func (p *parts) addClient(concern Concern, meta *CallMeta) {
	if one, ok := concern.(UnaryClient); ok {
		if part := one.UnaryClient(meta); part != nil {
			p.unaryClient = append(p.unaryClient, part)
		}
	}
	if one, ok := concern.(StreamClient); ok {
		if part := one.StreamClient(meta); part != nil {
			p.streamClient = append(p.streamClient, part)
		}
	}
}

func (p *parts) addAttempt(concern Concern, meta *CallMeta) {
	if one, ok := concern.(UnaryAttempt); ok {
		if part := one.UnaryAttempt(meta); part != nil {
			p.unaryClient = append(p.unaryClient, part)
		}
	}
	if one, ok := concern.(StreamAttempt); ok {
		if part := one.StreamAttempt(meta); part != nil {
			p.streamClient = append(p.streamClient, part)
		}
	}
}

func (p *parts) addServer(concern Concern, meta *CallMeta) {
	if one, ok := concern.(UnaryServer); ok {
		if part := one.UnaryServer(meta); part != nil {
			p.unaryServer = append(p.unaryServer, part)
		}
	}
	if one, ok := concern.(StreamServer); ok {
		if part := one.StreamServer(meta); part != nil {
			p.streamServer = append(p.streamServer, part)
		}
	}
}
