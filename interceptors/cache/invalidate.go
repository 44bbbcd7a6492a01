package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
)

// Invalidate puts an end to all answers of these subjects, those too that are being
// loaded now. With a store, all processes that share it follow; the error then says that
// they could not be told, and in this process it is done all the same.
func (c *Cache) Invalidate(ctx context.Context, subjects ...Subject) error {
	var names []string
	for _, s := range subjects {
		own, err := c.namesOf(s)
		if err != nil {
			return err
		}
		names = append(names, own...)
	}
	return c.invalidate(ctx, names)
}

func (c *Cache) invalidate(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	c.forget(names)
	c.invalidations.Add(1)
	if c.options.store == nil {
		return nil
	}
	_, err := guard.Call(ctx, c.store, "", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.options.store.Invalidate(ctx, names)
	})
	if err != nil {
		c.storeErrors.Add(1)
		return fmt.Errorf("cache: other processes keep answers that are invalid: %w", err)
	}
	return nil
}

// forget drops what this process keeps of some subjects. None is all of them.
func (c *Cache) forget(names []string) {
	if len(names) == 0 {
		names = []string{everything}
	}
	c.generations.invalidate(names...)
	if slices.Contains(names, everything) {
		c.entries.InvalidateAll()
	}
}

// tellingTimeout is the longest that an invalidating call waits for the store.
const tellingTimeout = time.Second

// invalidation is the part of a method which declares what it changes.
type invalidation struct {
	*Cache
	meta     *interceptors.CallMeta
	subjects []string
	tags     []*interceptors.Tag // that need the request
}

// newInvalidation is nil for a method that declares nothing.
func (c *Cache) newInvalidation(meta *interceptors.CallMeta) *invalidation {
	declared := meta.Policy.GetInvalidates()
	if len(declared.GetMethods())+len(declared.GetTags()) == 0 || meta.Safe() {
		return nil
	}
	i := &invalidation{Cache: c, meta: meta}
	for _, name := range declared.GetMethods() {
		i.subjects = append(i.subjects, methodSubject(interceptors.QualifiedMethod(meta.Service, name)))
	}
	literal, templates := tagsOf(meta, declared.GetTags())
	i.subjects, i.tags = append(i.subjects, literal...), templates
	return i
}

func (i *invalidation) client(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	names := i.of(req) // now: the caller may change the request afterwards
	err := errPanicked
	defer func() { i.after(ctx, names, err) }()
	err = invoker(ctx, method, req, reply, cc, opts...)
	return err
}

func (i *invalidation) server(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	names, err := i.of(req), errPanicked
	defer func() { i.after(ctx, names, err) }()
	var reply any
	reply, err = handler(ctx, req)
	return reply, err
}

// of names what a call with req changes.
func (i *invalidation) of(req any) []string {
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

// after invalidates unless the call has surely changed nothing. It is done before the
// caller knows that it has changed something, so whoever asks then is told of it.
func (i *invalidation) after(ctx context.Context, names []string, err error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.ResourceExhausted, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return
	}
	// Whoever gives up has not undone what was changed. A store is given half of the time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*tellingTimeout)
	defer cancel()
	if err := i.invalidate(ctx, names); err != nil {
		i.options.log.WarnContext(ctx, "an invalidation was not told to other processes", "method", i.meta.FullMethod, "error", err)
	}
}

// tagsOf splits tags into those that are written out, as subjects, and those with fields
// of the request in them.
func tagsOf(meta *interceptors.CallMeta, texts []string) (literal []string, templates []*interceptors.Tag) {
	for _, text := range texts {
		tag, err := interceptors.ParseTag(meta.Descriptor, text)
		switch {
		case err != nil: // policies refuse it
		case tag.Literal():
			literal = append(literal, tagSubject(text))
		default:
			templates = append(templates, tag)
		}
	}
	return literal, templates
}
