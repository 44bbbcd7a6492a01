package interceptors

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func (c *checker) cache(where string, rule *policyv1.CacheRule) {
	if rule == nil {
		return
	}
	c.duration(where, "ttl", rule.Ttl)
	c.duration(where, "stale_while_revalidate", rule.StaleWhileRevalidate)
	c.duration(where, "stale_if_error", rule.StaleIfError)
	if b := rule.GetEarlyRefresh(); rule.EarlyRefresh != nil && !(b >= 0 && b <= 100) {
		c.wrong(where, "early_refresh", "%v is not in 0 to 100: 1 is XFetch's own, 0 is none", b)
	}
	if s := rule.GetMaxShare(); rule.MaxShare != nil && !(s > 0 && s <= 1) {
		c.wrong(where, "max_share", "%v is not above 0 and up to 1: 0.25 is a quarter of the memory", s)
	}
	for i, key := range rule.GetVary() {
		c.metadataKey(where, fmt.Sprintf("vary[%d]", i), key)
	}
	seen := map[string]bool{}
	for i, negative := range rule.GetNegative() {
		if seen[negative.GetCode()] {
			c.wrong(where, fmt.Sprintf("negative[%d].code", i), "%q is given twice: leave one out", negative.GetCode())
		}
		seen[negative.GetCode()] = true
		c.negative(path(where, fmt.Sprintf("negative[%d]", i)), negative)
	}
}

// negative keeps failures that say something of what was asked for, and not of who
// asks, or how long for.
func (c *checker) negative(where string, rule *policyv1.NegativeRule) {
	switch code, err := ParseCode(rule.GetCode()); {
	case err != nil:
		c.wrong(where, "code", "%v", err)
	case slices.Contains(unkept, code):
		c.wrong(where, "code", "%q cannot be kept: write NOT_FOUND, FAILED_PRECONDITION or another that all who ask the same would get", rule.GetCode())
	}
	if ttl, err := ParseDuration(rule.GetTtl()); err != nil {
		c.wrong(where, "ttl", "%v", err)
	} else if ttl == 0 {
		c.wrong(where, "ttl", "0 keeps nothing: write \"10s\", or leave the rule out")
	}
}

var unkept = []codes.Code{codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted}

// checkCacheFields refuses what the cache cannot make of the requests of this method, and
// invalidations of what there is not.
func checkCacheFields(meta *CallMeta) error {
	for i, field := range meta.Policy.GetCache().GetKeyFields() {
		if _, err := FieldPath(meta.Descriptor.Input(), field); err != nil {
			return fmt.Errorf("cache.key_fields[%d]: %w", i, err)
		}
	}
	if err := checkTags(meta, meta.Policy.GetCache().GetTags()); err != nil && meta.Cacheable() {
		return fmt.Errorf("cache.%w", err)
	}
	changes := meta.Policy.GetInvalidates()
	if changes == nil || meta.Safe() {
		return nil
	}
	if len(changes.GetMethods())+len(changes.GetTags()) > 0 && meta.cached() {
		return fmt.Errorf("invalidates: %s is cached, too, and its answers would be given without a change: leave one of both out", meta.Descriptor.FullName())
	}
	if meta.Descriptor.IsStreamingClient() || meta.Descriptor.IsStreamingServer() {
		return fmt.Errorf("invalidates: %s is a stream, which says nothing of when something has changed: call Invalidate of the cache", meta.Descriptor.FullName())
	}
	for i, name := range changes.GetMethods() {
		if err := checkMethodName(QualifiedMethod(meta.Service, name)); err != nil {
			return fmt.Errorf("invalidates.methods[%d]: %w", i, err)
		}
	}
	if err := checkTags(meta, changes.GetTags()); err != nil {
		return fmt.Errorf("invalidates.%w", err)
	}
	return nil
}

func checkTags(meta *CallMeta, tags []string) error {
	for i, tag := range tags {
		if _, err := ParseTag(meta.Descriptor, tag); err != nil {
			return fmt.Errorf("tags[%d]: %w", i, err)
		}
	}
	return nil
}

// checkMethodName refuses a method that a linked contract does not have.
func checkMethodName(name string) error {
	service, method := rpc.SplitMethod(name)
	if !wellFormed(name) {
		return fmt.Errorf("%q: write \"Method\" or \"package.Service/Method\"", name)
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil // it is not linked, and cannot be checked
	}
	if s, ok := found.(protoreflect.ServiceDescriptor); !ok || s.Methods().ByName(protoreflect.Name(method)) == nil {
		return fmt.Errorf("%q: %s has no method %q", name, service, method)
	}
	return nil
}
