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
	result := Bypass
	defer func() { r.finish(ctx, result) }()
	a, known := r.read(ctx, "", req)
	if !known {
		a.reportOnServer(ctx, result)
		return handler(ctx, req)
	}
	result = Miss
	call := &serverCall{req: req, handler: handler, bare: r.shadow}
	a.origin = call
	e, found, err := r.find(ctx, &a)
	result = found
	if e != nil && e.failure == nil && call.fill(e) != nil { // what the store had is of another type
		_, err = call.fetch(ctx, "")
		e, result = nil, Miss
	}
	a.reportOnServer(ctx, result)
	if e != nil {
		e.send(ctx, call.told)
		err = e.failure.Err()
	}
	if err != nil {
		return nil, err
	}
	if !call.bare && call.etag != "" && matches(a.values.get(ifNoneMatch), call.etag) && setHeader(ctx, notModified, call.etag) == nil {
		return call.reply.(proto.Message).ProtoReflect().New().Interface(), nil
	}
	return call.reply, nil
}

// reportOnServer is report.
func (a *asked) reportOnServer(ctx context.Context, result Result) {
	if a.tell {
		_ = setHeader(ctx, xCache, result.String())
	}
}

// serverCall is a call that a handler answers.
type serverCall struct {
	req     any
	handler grpc.UnaryHandler
	bare    bool // nothing is to be added to the answer
	reply   any
	etag    string // of the reply, or what a handler that failed has told of it
	told    answer // by a handler that failed: its header and trailer
}

// fetch runs the handler, which is not asked whether anything has changed: what it says
// then could not be taken back from the caller. An answer without an etag is given one.
func (s *serverCall) fetch(ctx context.Context, _ string) (got answer, err error) {
	sent, _ := grpc.ServerTransportStreamFromContext(ctx).(sentMetadata)
	header, trailer := metadataOf(sent)
	if !s.bare {
		ctx = unconditional(ctx)
	}
	s.reply, err = s.handler(ctx, s.req)
	got.header, got.trailer = metadataOf(sent)
	got.header, got.trailer = added(header, got.header), added(trailer, got.trailer)
	s.etag = first(got.header["etag"])
	message, ok := s.reply.(proto.Message)
	if err != nil {
		s.told = got
	}
	if err != nil || !ok {
		return got, err
	}
	got.message = message
	if s.etag != "" || s.bare {
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
	_ = setHeader(ctx, "etag", s.etag)
	return got, nil
}

// contradicts reports whether the handler has told another etag before it has failed, which
// could not be taken back.
func (s *serverCall) contradicts(e *entry) bool { return s.etag != "" && s.etag != e.etag }

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
	if md, _ := metadata.FromIncomingContext(ctx); unwished(md) {
		ctx = metadata.NewIncomingContext(ctx, md)
	}
	return grpc.NewContextWithServerTransportStream(ctx, stream), &serverCall{req: request, handler: s.handler}
}

// send gives the caller the metadata that the answer came with, but for what it has been
// told already, which cannot be taken back.
func (e *entry) send(ctx context.Context, told answer) {
	if header := missing(e.header, told.header); len(header) > 0 {
		_ = grpc.SetHeader(ctx, header)
	}
	if trailer := missing(e.trailer, told.trailer); len(trailer) > 0 {
		_ = grpc.SetTrailer(ctx, trailer)
	}
	_ = setHeader(ctx, "age", e.ageNow())
}

// missing is what of md has no key in told.
func missing(md, told metadata.MD) metadata.MD {
	if len(told) == 0 {
		return md
	}
	left := metadata.MD{}
	for key, values := range md {
		if len(told[key]) == 0 {
			left[key] = values
		}
	}
	return left
}

// setHeader adds to the header of the answer. Without a transport, as in a test that calls
// the interceptor itself, there is nobody to give it to.
func setHeader(ctx context.Context, key, value string) error {
	return grpc.SetHeader(ctx, metadata.MD{key: {value}})
}
