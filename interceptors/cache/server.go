package cache

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// server answers a call from the cache, or from another's for the same that is being
// handled, or stores what the handler answers.
func (r *rule) server(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	key, known := r.key(ctx, "", req)
	if !known {
		r.finish(Bypass)
		return handler(ctx, req)
	}
	var reply any
	call := func() (e *entry, err error) {
		reply, e, err = r.handle(ctx, key, req, handler)
		return e, err
	}
	e, result, err := r.find(ctx, key, call)
	r.finish(result)
	switch {
	case e == nil:
		return reply, err
	case e.failure != nil:
		e.send(ctx)
		return nil, e.failure.Err()
	}
	e.send(ctx)
	answer := e.message.New().Interface()
	return answer, proto.Unmarshal(e.body, answer) // it was written by this program
}

// handle runs the handler and stores what it answers.
func (r *rule) handle(ctx context.Context, key string, req any, handler grpc.UnaryHandler) (any, *entry, error) {
	sent, _ := grpc.ServerTransportStreamFromContext(ctx).(sentMetadata)
	header, trailer := metadataOf(sent)
	reply, err := handler(ctx, req)
	allHeader, allTrailer := metadataOf(sent)
	header, trailer = added(header, allHeader), added(trailer, allTrailer)
	if err != nil {
		r.store(key, r.newFailure(ctx, key, err, header, trailer))
		return reply, nil, err
	}
	answer, ok := reply.(proto.Message)
	if !ok {
		return reply, nil, nil
	}
	e := newEntry(key, answer, header, trailer)
	r.store(key, e)
	return reply, e, nil
}

// sentMetadata is what gRPC's own stream tells. It is not wrapped to listen in:
// grpc.SetSendCompressor wants that very type.
type sentMetadata interface {
	Header() (metadata.MD, error)
	Trailer() metadata.MD
}

func metadataOf(s sentMetadata) (header, trailer metadata.MD) {
	if s == nil {
		return nil, nil
	}
	header, _ = s.Header()
	return header, s.Trailer()
}

// added is what of after was not in before, to which values are only appended.
func added(before, after metadata.MD) metadata.MD {
	for key, values := range after {
		if values = values[len(before[key]):]; len(values) == 0 {
			delete(after, key)
		} else {
			after[key] = values
		}
	}
	return after
}

// send gives the caller the metadata that the answer came with. Without a
// transport, as in a test that calls the interceptor itself, there is nobody to
// give it to.
func (e *entry) send(ctx context.Context) {
	if len(e.header) > 0 {
		_ = grpc.SetHeader(ctx, e.header)
	}
	if len(e.trailer) > 0 {
		_ = grpc.SetTrailer(ctx, e.trailer)
	}
}
