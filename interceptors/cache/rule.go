package cache

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is what the policy asks of the cache for one method on one side.
type rule struct {
	*Cache
	scope string
	meta  *interceptors.CallMeta
	ttl   time.Duration
	// staleIfError is how long past its ttl an answer stands in for a failure.
	staleIfError time.Duration
	// negative is how long which failures are fresh.
	negative map[codes.Code]time.Duration
	public   bool
	vary     []string // metadata keys
	// fields make up the request's part of the key; empty is the whole request.
	fields [][]protoreflect.FieldDescriptor
}

// newRule is nil where nothing is to be cached.
func (c *Cache) newRule(scope string, meta *interceptors.CallMeta) *rule {
	policy := meta.Policy.GetCache()
	ttl, err := interceptors.ParseDuration(policy.GetTtl())
	if err != nil || ttl <= 0 || !meta.Cacheable() || !meta.Side.On(policy.GetSide(), interceptors.Client) {
		return nil
	}
	r := &rule{
		Cache:  c,
		scope:  scope,
		meta:   meta,
		ttl:    ttl,
		public: policy.GetScope() == policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
		vary:   policy.GetVary(),
	}
	if !policy.GetMustRevalidate() {
		r.staleIfError, _ = interceptors.ParseDuration(policy.GetStaleIfError())
	}
	for _, n := range policy.GetNegative() {
		code, wrong := interceptors.ParseCode(n.GetCode())
		if ttl, err := interceptors.ParseDuration(n.GetTtl()); err == nil && wrong == nil && ttl > 0 {
			if r.negative == nil {
				r.negative = map[codes.Code]time.Duration{}
			}
			r.negative[code] = ttl
		}
	}
	if !r.public {
		// One identity may hold several tokens, and an identity that a gateway
		// proves says nothing of the callers behind it.
		r.vary = append(r.vary[:len(r.vary):len(r.vary)], "authorization")
	}
	if len(policy.GetKeyFields()) > 0 && meta.Descriptor == nil {
		return nil // the fields cannot be told in a request of unknown type
	}
	for _, text := range policy.GetKeyFields() {
		path, err := interceptors.FieldPath(meta.Descriptor.Input(), text)
		if err != nil {
			return nil
		}
		r.fields = append(r.fields, path)
	}
	return r
}

func (r *rule) finish(result Result) {
	r.counters.add(result)
	if r.options.observe != nil {
		r.options.observe(r.meta, result)
	}
}
