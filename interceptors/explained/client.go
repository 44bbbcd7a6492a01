package explained

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// Why there is no answer of a server.
const (
	silentServer  = "the server answers no explanation: it does not trust this caller (RuntimeConfig.Callers), or is not of meshlite"
	silentFailure = "no server has answered"
	silentHops    = "not asked: it is behind 8 others"
	silentAnswer  = "its explanation cannot be read"
	silentRoom    = "its trailer has no room for an explanation"
)

// begin begins the record of a call, nil if nobody wants it explained.
func (e *Explained) begin(ctx context.Context, meta *interceptors.CallMeta, method string) (context.Context, *hop.Record) {
	parent := interceptors.Explaining(ctx)
	if parent == nil {
		return ctx, nil
	}
	record := parent.Call(strings.TrimPrefix(method, "/"), e.target)
	if record == nil { // there is no room
		return interceptors.WithoutOutcome(ctx), nil
	}
	record.Note(func(h *hop.Hop) { h.Deadline = deadlineOf(ctx) })
	return interceptors.Explain(ctx, interceptors.Client, meta.FullMethod, record), record
}

// end ends the record of a call.
func end(record *hop.Record, attempts *attempt.Record, err error) {
	first := routeOf(attempts.First().Route())
	record.Note(func(h *hop.Hop) { h.Route = first })
	record.End(rpc.Code(err).String())
}

func routeOf(at *attempt.Route) *hop.Route {
	if at == nil {
		return nil
	}
	return &hop.Route{Name: at.Name, Arm: at.Arm, Destination: at.Destination}
}

// UnaryClient explains the calls of a method. It is nil for gRPC's own services.
func (e *Explained) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, record := e.begin(ctx, meta, method)
		if record == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		ctx, attempts := attempt.FromOrNew(ctx, attempt.Unary)
		err := rpc.ErrPanic
		defer func() { end(record, attempts, err) }()
		err = invoker(ctx, method, req, reply, cc, opts...)
		return err
	}
}

// StreamClient explains the streams of a method. It is nil for gRPC's own services.
func (e *Explained) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, record := e.begin(ctx, meta, method)
		if record == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, attempts := attempt.FromOrNew(ctx, attempt.Stream)
		return rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) { end(record, attempts, err) })
	}
}

// attempted is an attempt of a call that is explained.
type attempted struct {
	concern *Explained
	record  *hop.Record
	attempt *attempt.Record
	started time.Duration
	index   int  // in the record
	asks    bool // the server is asked
}

// send begins an attempt, nil of a call that is not explained.
func (e *Explained) send(ctx context.Context, meta *interceptors.CallMeta, kind attempt.Kind) (context.Context, *attempted) {
	record := interceptors.RecordOf(ctx, meta)
	if record == nil {
		return ctx, nil
	}
	a := &attempted{concern: e, record: record, started: record.Elapsed(), asks: record.Left() > 0}
	ctx, a.attempt = attempt.FromOrNew(ctx, kind)
	a.index = record.Attempt(hop.Attempt{Number: a.attempt.Number(), Started: hop.Milliseconds(a.started)})
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	md.Delete(wire.ExplainKey)
	if a.asks {
		md.Set(wire.ExplainKey, strconv.Itoa(record.Left()))
	}
	return metadata.NewOutgoingContext(ctx, md), a
}

// picked records where the attempt went.
func (a *attempted) picked(made *hop.Attempt) {
	if picked := a.attempt.Picked(); picked != nil {
		made.Instance, made.Address, made.Zone = picked.ID, picked.Address, picked.Zone
		made.Policy, made.Candidates = a.concern.policy(a.attempt.Route()), a.attempt.Candidates()
	}
	if at := a.attempt.Route(); at != a.attempt.First().Route() {
		made.Route = routeOf(at)
	}
}

// end records how the attempt ended, with the trailer of its server.
func (a *attempted) end(err error, trailer metadata.MD) {
	var server *hop.Hop
	silent := ""
	values := trailer[wire.ExplainedKey]
	switch {
	case !a.asks:
		silent = silentHops
	case len(values) == 0 && answered(a.attempt.End(), err):
		silent = silentServer
	case len(values) == 0:
		silent = silentFailure
	case values[0] == "":
		silent = silentRoom
	default:
		var unread error
		if server, unread = hop.Decode([]byte(values[0])); unread != nil {
			silent = silentAnswer
		}
	}
	took := a.record.Elapsed() - a.started
	a.record.Attempted(a.index, func(made *hop.Attempt) {
		a.picked(made)
		made.Duration, made.Code, made.Silent = hop.Milliseconds(took), status.Code(err).String(), silent
	}, server)
}

// answered reports whether an attempt ended by an answer in gRPC's form, as far as is known.
func answered(end attempt.End, err error) bool {
	return err == nil || end&attempt.Answer != 0 || end == 0 && status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled
}

// withhold deletes explanations from the trailers that a caller has asked for: a handler may pass
// on what it received.
func withhold(opts []grpc.CallOption) {
	for _, opt := range opts {
		if trailer, ok := opt.(grpc.TrailerCallOption); ok {
			delete(*trailer.TrailerAddr, wire.ExplainedKey)
		}
	}
}

// UnaryAttempt asks the server of each attempt.
func (e *Explained) UnaryAttempt(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, a := e.send(ctx, meta, attempt.Unary)
		if a == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		var trailer metadata.MD
		err := rpc.ErrPanic
		defer func() {
			withhold(opts)
			a.end(err, trailer)
		}()
		err = invoker(ctx, method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer))...)
		return err
	}
}

// StreamAttempt asks the server of each attempt of a stream.
func (e *Explained) StreamAttempt(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, a := e.send(ctx, meta, attempt.Stream)
		if a == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		stream, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			a.end(err, nil)
			return nil, err
		}
		a.record.Attempted(a.index, a.picked, nil)
		return &askedStream{ClientStream: stream, attempted: a, single: !desc.ServerStreams, opts: opts}, nil
	}
}
