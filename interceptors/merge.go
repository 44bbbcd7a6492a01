package interceptors

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// merge writes what src sets over dst: messages field by field, limits by their
// name, other lists whole. proto.Merge would append lists.
func merge(dst, src *policyv1.MethodPolicy) {
	if src == nil {
		return
	}
	src = proto.Clone(src).(*policyv1.MethodPolicy)
	limits := mergeLimits(dst.RateLimits, src.RateLimits)
	mergeFields(dst.ProtoReflect(), src.ProtoReflect())
	dst.RateLimits = limits
}

// mergeDefault is merge for a rule about all methods. It does not make the answers
// of a method public that has been called private.
func mergeDefault(dst, src *policyv1.MethodPolicy) {
	private := dst.GetCache().GetScope() == policyv1.CacheScope_CACHE_SCOPE_PRIVATE
	merge(dst, src)
	if private {
		dst.Cache.Scope = policyv1.CacheScope_CACHE_SCOPE_PRIVATE
	}
}

func mergeLimits(dst, src []*policyv1.RateLimitRule) []*policyv1.RateLimitRule {
	for _, rule := range src {
		at := -1
		for i := range dst {
			if dst[i].GetName() == rule.GetName() {
				at = i
			}
		}
		if at < 0 {
			dst = append(dst, rule)
			continue
		}
		mergeFields(dst[at].ProtoReflect(), rule.ProtoReflect())
	}
	return dst
}

// mergeFields takes src's lists as they are: src is a clone, or lives in one.
func mergeFields(dst, src protoreflect.Message) {
	src.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() == nil || field.IsList() {
			dst.Set(field, value)
		} else {
			mergeFields(dst.Mutable(field).Message(), value.Message())
		}
		return true
	})
}
