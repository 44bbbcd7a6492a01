package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Subject names answers that are invalidated together.
type Subject struct {
	name    string
	request proto.Message // of Request, whose name depends on the key fields of the rules
	method  string
}

// Everything is all answers.
func Everything() Subject { return Subject{name: everything} }

// Method is all answers of a method, "package.Service/Method".
func Method(name string) Subject {
	if name == "" {
		return Subject{}
	}
	return Subject{name: methodSubject(name)}
}

// Tag is all answers that carry a tag, such as "sweets", or "sweet:fudge" of a rule that
// says tags: "sweet:{id}".
func Tag(tag string) Subject {
	if tag == "" {
		return Subject{}
	}
	return Subject{name: tagSubject(tag)}
}

// Request is all answers to one request of a method, for any caller. Of a rule with
// key_fields only those fields count, once this process has used that rule for a channel
// or server.
func Request(method string, request proto.Message) Subject {
	return Subject{method: fullMethod(method), request: request}
}

// namesOf lists the names of s: a request has one for the whole of it, and one for the key
// fields of each rule.
func namesOf(c *Cache, s Subject) ([]string, error) {
	switch {
	case s.request != nil:
		var names []string
		for _, fields := range append([][]fieldPath{nil}, c.methods.of(s.method).keyFields()...) {
			b, err := appendRequest(nil, s.request.ProtoReflect(), fields)
			if err != nil {
				return nil, fmt.Errorf("cache: request of %s: %w", strings.TrimPrefix(s.method, "/"), err)
			}
			names = append(names, requestSubject(s.method, b))
		}
		return names, nil
	case s.name == "":
		return nil, errors.New("cache: a subject without a name: use Everything, Method, Tag or Request")
	}
	return []string{s.name}, nil
}

// Invalidate makes all answers of these subjects unreachable, including those that are being
// loaded. With a store, it publishes the invalidation to all processes that share the store.
// An error says that this has failed so far; in this process the answers are invalid all the
// same.
func (c *Cache) Invalidate(ctx context.Context, subjects ...Subject) error {
	var names []string
	for _, s := range subjects {
		of, err := namesOf(c, s)
		if err != nil {
			return err
		}
		names = append(names, of...)
	}
	return c.invalidate(ctx, names)
}

func (c *Cache) invalidate(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	c.memory.invalidate(names)
	c.invalidations.Add(1)
	if c.options.store == nil {
		return nil
	}
	_, err := guard.Call(ctx, c.guard, "", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.options.store.Invalidate(ctx, names)
	})
	if err != nil {
		c.storeErrors.Add(1)
		return fmt.Errorf("cache: other processes keep answers that are invalid: %w", err)
	}
	return nil
}

// onInvalidation applies invalidations by other processes. nil means that some were lost:
// everything is dropped.
func (c *Cache) onInvalidation(names []string) {
	if len(names) == 0 {
		c.storeLosses.Add(1)
		names = []string{everything}
	}
	c.memory.invalidate(names)
}

func (m *memory) invalidate(names []string) {
	m.generations.invalidate(names...)
	if slices.Contains(names, everything) {
		m.entries.InvalidateAll()
	}
}

// invalidateTimeout is the longest that an invalidating call waits for the store.
const invalidateTimeout = time.Second

// invalidation is the interceptor of a method whose policy declares what it changes.
type invalidation struct {
	cache    *Cache
	meta     *interceptors.CallMeta
	subjects []string
	tags     []*interceptors.Tag // subjects that depend on the request
}

// newInvalidation is nil for a method that declares nothing.
func newInvalidation(c *Cache, meta *interceptors.CallMeta) *invalidation {
	declared := meta.Policy.GetInvalidates()
	if len(declared.GetMethods())+len(declared.GetTags()) == 0 || meta.Safe() {
		return nil
	}
	i := &invalidation{cache: c, meta: meta}
	for _, name := range declared.GetMethods() {
		i.subjects = append(i.subjects, methodSubject(interceptors.QualifiedMethod(meta.Service, name)))
	}
	literal, templates := tagsOf(meta, declared.GetTags())
	i.subjects, i.tags = append(i.subjects, literal...), templates
	return i
}

func (i *invalidation) client(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	names := i.namesOf(req) // now: the caller may change the request afterwards
	err := rpc.ErrPanic
	defer func() { i.invalidate(ctx, names, err) }()
	err = invoker(ctx, method, req, reply, cc, opts...)
	return err
}

func (i *invalidation) server(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	names, err := i.namesOf(req), rpc.ErrPanic
	defer func() { i.invalidate(ctx, names, err) }()
	var reply any
	reply, err = handler(ctx, req)
	return reply, err
}

// namesOf names the subjects that a call with req changes.
func (i *invalidation) namesOf(req any) []string {
	if len(i.tags) == 0 {
		return i.subjects
	}
	names := slices.Clone(i.subjects)
	if message, ok := req.(proto.Message); ok {
		for _, tag := range i.tags {
			names = append(names, tagSubject(tag.Of(message.ProtoReflect())))
		}
	}
	return names
}

// invalidate runs before the call returns, so that its caller reads its own write. Only an
// error that proves that nothing has changed invalidates nothing.
func (i *invalidation) invalidate(ctx context.Context, names []string, err error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.ResourceExhausted, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return
	}
	// A caller that gives up has not undone the change. The store gets half of the time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*invalidateTimeout)
	defer cancel()
	if err := i.cache.invalidate(ctx, names); err != nil {
		i.cache.options.log.WarnContext(ctx, "an invalidation did not reach other processes", "method", i.meta.FullMethod, "error", err)
	}
}
