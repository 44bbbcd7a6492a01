package explained

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

const (
	// maxWire bounds an answer on the wire, in bytes.
	maxWire = 8 << 10
	// maxTrailer is what clients of this module take of a trailer, less some room for what gRPC
	// adds: a call with more would fail for being explained.
	maxTrailer = 15 << 10
	perField   = 32 // bytes that HTTP/2 counts for each field
)

// UnaryServer explains the calls of a method. It is nil for gRPC's own services.
func (e *Explained) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if len(metadata.ValueFromIncomingContext(ctx, wire.ExplainKey)) == 0 {
			return handler(ctx, req)
		}
		ctx, record := e.receive(ctx, meta, info.FullMethod)
		if record == nil {
			return handler(ctx, req)
		}
		reply, err := handler(ctx, req)
		answer(record, err, sentTrailer(ctx), func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) })
		return reply, err
	}
}

// StreamServer explains the streams of a method. It is nil for gRPC's own services.
func (e *Explained) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if interceptors.Infrastructure(meta.Service) {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if len(metadata.ValueFromIncomingContext(stream.Context(), wire.ExplainKey)) == 0 {
			return handler(srv, stream)
		}
		ctx, record := e.receive(stream.Context(), meta, info.FullMethod)
		err := handler(srv, rpc.WithContext(stream, ctx))
		if record != nil {
			answer(record, err, sentTrailer(ctx), stream.SetTrailer)
		}
		return err
	}
}

// receive begins the record of a call whose caller asks, nil if it is not to be answered. The
// context is without the key: a handler that forwards what it received would have it obeyed by
// servers that trust this one, and not its caller.
func (e *Explained) receive(ctx context.Context, meta *interceptors.CallMeta, fullMethod string) (context.Context, *hop.Record) {
	hops := asked(ctx)
	md, _ := metadata.FromIncomingContext(ctx) // a copy
	md.Delete(wire.ExplainKey)
	without := metadata.NewIncomingContext(ctx, md)
	if hops == 0 || !e.callers.Trusted(ctx) {
		return without, nil
	}
	record := hop.New(interceptors.Server.String(), strings.TrimPrefix(fullMethod, "/"), hops-1)
	record.Note(func(h *hop.Hop) {
		self := e.instance()
		h.Service, h.Instance, h.Zone = self.Service, self.ID, self.Zone
		h.Caller = e.callers.LogName(ctx)
		if from, ok := peer.FromContext(ctx); ok && from.Addr != nil {
			h.Peer = from.Addr.String()
		}
		h.Deadline = deadlineOf(ctx)
	})
	return interceptors.Explain(without, interceptors.Server, meta.FullMethod, record), record
}

// deadlineOf is the deadline that the caller has set.
func deadlineOf(ctx context.Context) *hop.Deadline {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	return &hop.Deadline{Left: hop.Milliseconds(time.Until(deadline)), By: "caller"}
}

// answer ends the record of a call and sends it in the trailer, if that has room.
func answer(record *hop.Record, err error, trailer metadata.MD, set func(metadata.MD)) {
	record.End(rpc.Code(err).String())
	left := maxTrailer - statusSize(err)
	for key, values := range trailer {
		for _, value := range values {
			left -= fieldSize(key, value)
		}
	}
	room := min(maxWire, left-len(wire.ExplainedKey)-perField)
	if room >= 0 { // an empty answer is one that has no room
		encoded := hop.Encode(record.Close(), base64.RawStdEncoding.DecodedLen(room))
		set(metadata.Pairs(wire.ExplainedKey, string(encoded)))
	}
}

// statusSize is what the status of a call takes in its trailer.
func statusSize(err error) int {
	if err == nil {
		return 0
	}
	s := rpc.Status(err).Proto()
	size := 3 * len(s.GetMessage()) // percent-encoded
	if len(s.GetDetails()) > 0 {
		size += base64.RawStdEncoding.EncodedLen(proto.Size(s))
	}
	return size
}

func fieldSize(key, value string) int {
	if strings.HasSuffix(key, "-bin") {
		return len(key) + base64.RawStdEncoding.EncodedLen(len(value)) + perField
	}
	return len(key) + len(value) + perField
}

// sentTrailer is the trailer that was set so far.
func sentTrailer(ctx context.Context) metadata.MD {
	if stream, ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ Trailer() metadata.MD }); ok {
		return stream.Trailer()
	}
	return nil
}
