package cache

import (
	"context"
	"maps"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// serverPart is the cache before the handler of one method.
type serverPart struct{ rule *rule }

// handle is the interceptor.
func (p serverPart) handle(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	result := Bypass
	var x exchange
	defer func() { p.rule.report(ctx, &x, result) }()
	x, usable := newExchange(ctx, p.rule, "", req)
	if !usable {
		sendResult(ctx, &x, result)
		return handler(ctx, req)
	}
	result = Miss
	call := &serverCall{req: req, handler: handler, shadow: p.rule.shadow}
	x.origin, x.found = call, x.lookup()
	e, found, err := x.find(ctx)
	result = found
	if e != nil && e.failure == nil && call.setReply(e) != nil { // the entry is of another message type
		_, err = call.fetch(ctx, "")
		e, result = nil, Miss
	}
	sendResult(ctx, &x, result)
	if e != nil {
		e.sendMetadata(ctx, call.failedWith)
		err = e.failure.Err()
	}
	if err != nil {
		return nil, err
	}
	if !call.shadow && call.etag != "" && matches(x.values.get(ifNoneMatch), call.etag) && setHeader(ctx, notModified, call.etag) == nil {
		return call.reply.(proto.Message).ProtoReflect().New().Interface(), nil
	}
	return call.reply, nil
}

// sendResult adds the result to the header of the answer, if the call carries x-cache.
func sendResult(ctx context.Context, x *exchange, result Result) {
	if x.wantsResult {
		_ = setHeader(ctx, xCache, result.String())
	}
}

// serverCall is the origin of a call on the server: the handler.
type serverCall struct {
	req        any
	handler    grpc.UnaryHandler
	shadow     bool // answers stay as they are, without an etag of ours
	reply      any
	etag       string // of the reply, or what a handler has set before it failed
	failedWith answer // the header and trailer that a handler has set before it failed
}

// fetch runs the handler, without if-none-match: a not-modified that the handler sends goes
// to the caller, whose answer may be another one. An answer without an etag gets one.
func (s *serverCall) fetch(ctx context.Context, _ string) (got answer, err error) {
	sent, _ := grpc.ServerTransportStreamFromContext(ctx).(sentMetadata)
	header, trailer := metadataOf(sent)
	if !s.shadow {
		ctx = withoutIfNoneMatch(ctx)
	}
	s.reply, err = s.handler(ctx, s.req)
	got.header, got.trailer = metadataOf(sent)
	got.header, got.trailer = added(header, got.header), added(trailer, got.trailer)
	s.etag = first(got.header["etag"])
	message, ok := s.reply.(proto.Message)
	if err != nil {
		s.failedWith = got
	}
	if err != nil || !ok {
		return got, err
	}
	got.message = message
	if s.etag != "" || s.shadow {
		return got, nil
	}
	if got.body, err = deterministic.Marshal(message); err != nil {
		return answer{}, nil // gRPC fails the call when it marshals the reply
	}
	s.etag = `"` + digest(got.body) + `"`
	if got.header == nil {
		got.header = metadata.MD{}
	}
	got.header["etag"] = []string{s.etag}
	_ = setHeader(ctx, "etag", s.etag)
	return got, nil
}

// conflictsWith reports whether the handler has set another etag before it failed, which
// cannot be taken back.
func (s *serverCall) conflictsWith(e *entry) bool { return s.etag != "" && s.etag != e.etag }

func (s *serverCall) setReply(e *entry) error {
	message := e.message.New().Interface()
	s.reply, s.etag = message, e.etag
	return decoding.Unmarshal(e.body, message)
}

// detached runs the handler on a stream without a caller.
func (s *serverCall) detached(ctx context.Context, request proto.Message) (context.Context, origin) {
	stream := &discardStream{}
	if serving := grpc.ServerTransportStreamFromContext(ctx); serving != nil {
		stream.method = serving.Method()
	}
	if md, _ := metadata.FromIncomingContext(ctx); deleteDirectives(md) {
		ctx = metadata.NewIncomingContext(ctx, md)
	}
	return grpc.NewContextWithServerTransportStream(ctx, stream), &serverCall{req: request, handler: s.handler}
}

// sendMetadata sends the metadata of e, except for keys that the handler has set already
// before it failed.
func (e *entry) sendMetadata(ctx context.Context, failedWith answer) {
	if header := withoutKeys(e.header, failedWith.header); len(header) > 0 {
		_ = grpc.SetHeader(ctx, header)
	}
	if trailer := withoutKeys(e.trailer, failedWith.trailer); len(trailer) > 0 {
		_ = grpc.SetTrailer(ctx, trailer)
	}
	_ = setHeader(ctx, "age", e.ageHeader())
}

// withoutKeys is md without the keys of other.
func withoutKeys(md, other metadata.MD) metadata.MD {
	if len(other) == 0 {
		return md
	}
	left := metadata.MD{}
	for key, values := range md {
		if len(other[key]) == 0 {
			left[key] = values
		}
	}
	return left
}

// setHeader adds to the header of the answer. It fails without a transport, as in a test
// that calls the interceptor itself.
func setHeader(ctx context.Context, key, value string) error {
	return grpc.SetHeader(ctx, metadata.MD{key: {value}})
}

// Unchanged sends the etag of the answer that a handler is about to return, such as
// `"v7"`, and reports whether the caller has that answer already: then the handler returns
// an empty message and need not make the answer. A cache on the client sends if-none-match
// once its answer has expired. Where the server's cache stores the method, it does this by
// itself.
//
// After the header has been sent, Unchanged is false and sends nothing.
func Unchanged(ctx context.Context, etag string) bool {
	_ = setHeader(ctx, "etag", etag)
	return matches(metadata.ValueFromIncomingContext(ctx, ifNoneMatch), etag) && setHeader(ctx, notModified, etag) == nil
}

// matches reports whether one of the etags in if-none-match is etag, whether it is weak
// or not (RFC 9110, 13.1.2). A * matches nothing here.
func matches(values []string, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for _, value := range values {
		for value != "" {
			value = strings.TrimPrefix(strings.TrimLeft(value, ", \t"), "W/")
			one := value
			if quoted := strings.HasPrefix(value, `"`); quoted {
				if end := strings.IndexByte(value[1:], '"'); end >= 0 {
					one = value[:end+2]
				}
			} else if end := strings.IndexByte(value, ','); end >= 0 {
				one = value[:end]
			}
			value = value[len(one):]
			if one != "" && one == etag {
				return true
			}
		}
	}
	return false
}

// withoutIfNoneMatch is ctx without the caller's if-none-match, which the cache answers.
func withoutIfNoneMatch(ctx context.Context) context.Context {
	if len(metadata.ValueFromIncomingContext(ctx, ifNoneMatch)) == 0 {
		return ctx
	}
	md, _ := metadata.FromIncomingContext(ctx)
	md.Delete(ifNoneMatch)
	return metadata.NewIncomingContext(ctx, md)
}

// sentMetadata is implemented by gRPC's own stream. The cache reads from that instead of
// wrapping it, since grpc.SetSendCompressor needs its very type.
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

// discardStream is the stream of a handler that runs for the cache alone. It records the
// metadata and sends nothing.
type discardStream struct {
	method string

	mu              sync.Mutex
	header, trailer metadata.MD
}

// Method is that of the call which the handler was first run for.
func (d *discardStream) Method() string { return d.method }

// SetHeader records md.
func (d *discardStream) SetHeader(md metadata.MD) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.header = metadata.Join(d.header, md)
	return nil
}

// SendHeader records md.
func (d *discardStream) SendHeader(md metadata.MD) error { return d.SetHeader(md) }

// SetTrailer records md.
func (d *discardStream) SetTrailer(md metadata.MD) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trailer = metadata.Join(d.trailer, md)
	return nil
}

// Header is what was recorded.
func (d *discardStream) Header() (metadata.MD, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.header), nil
}

// Trailer is what was recorded.
func (d *discardStream) Trailer() metadata.MD {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.trailer)
}
