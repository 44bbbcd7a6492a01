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

// begin begins the record of a call that is made while that of parent runs, nil if there is no room
// for it.
func (e *Explained) begin(ctx context.Context, parent *hop.Record, meta *interceptors.CallMeta, method string) (context.Context, *hop.Record) {
	record := parent.Call(strings.TrimPrefix(method, "/"), e.target)
	if record == nil {
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

// attempted is an attempt of a call that is explained.
type attempted struct {
	concern *Explained
	record  *hop.Record
	attempt *attempt.Record
	started time.Duration
	index   int  // in the record
	asks    bool // the server is asked
}

// send begins an attempt of the call of record.
func (e *Explained) send(ctx context.Context, record *hop.Record, kind attempt.Kind) (context.Context, *attempted) {
	a := &attempted{concern: e, record: record, started: record.Elapsed(), asks: record.Left() > 0}
	ctx, a.attempt = attempt.FromOrNew(ctx, kind)
	a.index = record.Attempt(hop.Attempt{Number: a.attempt.Number(), Started: hop.Milliseconds(a.started)})
	md := rpc.Outgoing(ctx)
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
