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
	a, known := r.asked(ctx, "", req)
	if !known {
		r.finish(Bypass)
		if a.tell {
			setHeader(ctx, xCache, Bypass.String())
		}
		return handler(ctx, req)
	}
	call := &serverCall{req: req, handler: handler}
	a.origin = call
	e, result, err := r.find(ctx, &a)
	r.finish(result)
	if a.tell {
		setHeader(ctx, xCache, result.String())
	}
	if e != nil {
		e.send(ctx)
		if e.failure != nil {
			return nil, e.failure.Err()
		}
		err = call.fill(e) // it was written by this program
	}
	if err == nil && call.etag != "" && matches(a.values.get(ifNoneMatch), call.etag) {
		setHeader(ctx, notModified, call.etag)
		return call.reply.(proto.Message).ProtoReflect().New().Interface(), nil
	}
	return call.reply, err
}

// serverCall is a call that a handler answers.
type serverCall struct {
	req     any
	handler grpc.UnaryHandler
	reply   any
	etag    string // of the reply
}

// fetch runs the handler, which is not asked whether anything has changed: what it says
// then could not be taken back from the caller. An answer without an etag is given one.
func (s *serverCall) fetch(ctx context.Context, _ string) (got answer, err error) {
	sent, _ := grpc.ServerTransportStreamFromContext(ctx).(sentMetadata)
	header, trailer := metadataOf(sent)
	s.reply, err = s.handler(unconditional(ctx), s.req)
	got.header, got.trailer = metadataOf(sent)
	got.header, got.trailer = added(header, got.header), added(trailer, got.trailer)
	message, ok := s.reply.(proto.Message)
	if err != nil || !ok {
		return got, err
	}
	got.message = message
	if s.etag = first(got.header["etag"]); s.etag != "" {
		return got, nil
	}
	if got.body, err = deterministic.Marshal(message); err != nil {
		return answer{}, nil // gRPC will tell
	}
	s.etag = `"` + digest(got.body) + `"`
	if got.header == nil {
		got.header = metadata.MD{}
	}
	got.header["etag"] = []string{s.etag}
	setHeader(ctx, "etag", s.etag)
	return got, nil
}

func (s *serverCall) fill(e *entry) error {
	message := e.message.New().Interface()
	s.reply, s.etag = message, e.etag
	return proto.Unmarshal(e.body, message)
}

// detached answers nobody: what the handler sends is only written down.
func (s *serverCall) detached(ctx context.Context, request proto.Message) (context.Context, origin) {
	stream := &nobody{}
	if serving := grpc.ServerTransportStreamFromContext(ctx); serving != nil {
		stream.method = serving.Method()
	}
	return grpc.NewContextWithServerTransportStream(ctx, stream), &serverCall{req: request, handler: s.handler}
}

// send gives the caller the metadata that the answer came with.
func (e *entry) send(ctx context.Context) {
	if len(e.header) > 0 {
		_ = grpc.SetHeader(ctx, e.header)
	}
	if len(e.trailer) > 0 {
		_ = grpc.SetTrailer(ctx, e.trailer)
	}
	setHeader(ctx, "age", e.ageNow())
}

// setHeader adds to the header of the answer. Without a transport, as in a test that calls
// the interceptor itself, there is nobody to give it to.
func setHeader(ctx context.Context, key, value string) {
	_ = grpc.SetHeader(ctx, metadata.MD{key: {value}})
}
