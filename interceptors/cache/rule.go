package cache

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is what the policy asks of the cache for one method on one side.
type rule struct {
	*Cache
	scope  string
	meta   *interceptors.CallMeta
	method *method
	ttl    time.Duration
	// whileRevalidate and ifError are how long past its ttl an answer is served while a
	// newer one is fetched, and stands in for a failure.
	whileRevalidate, ifError time.Duration
	mustRevalidate           bool
	// negative is how long which failures are fresh.
	negative map[codes.Code]time.Duration
	public   bool
	vary     []string // metadata keys
	fields   []fieldPath
	// subjects are what all its answers belong to, and own their generations; tags are
	// those which depend on the request.
	subjects []string
	own      []*generation
	tags     []*interceptors.Tag
	// eager is XFetch's beta, 0 for no early refresh.
	eager          float64
	refreshTimeout time.Duration
	maxBytes       int64 // of the method, 0 for no bound of its own
	shadow         bool
	// output is the type of the answers, and schema the fingerprint of it. Without a
	// linked contract there is none, and nothing goes through the store.
	output protoreflect.MessageType
	schema string
}

// newRule is nil where nothing is to be cached.
func (c *Cache) newRule(scope string, meta *interceptors.CallMeta) *rule {
	policy := meta.Policy.GetCache()
	ttl := duration(policy.GetTtl())
	if ttl <= 0 || !meta.Cacheable() || !meta.Side.On(policy.GetSide(), interceptors.Client) {
		return nil
	}
	r := &rule{
		Cache:           c,
		scope:           scope,
		meta:            meta,
		method:          c.methods.of(meta.FullMethod),
		ttl:             ttl,
		whileRevalidate: duration(policy.GetStaleWhileRevalidate()),
		ifError:         duration(policy.GetStaleIfError()),
		mustRevalidate:  policy.GetMustRevalidate(),
		public:          policy.GetScope() == policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
		vary:            policy.GetVary(),
		negative:        negatives(policy.GetNegative()),
		eager:           policy.GetEarlyRefresh(),
		refreshTimeout:  duration(meta.Policy.GetTimeout()),
		maxBytes:        shareOf(policy, c.options.maxBytes),
		shadow:          policy.GetShadow(),
	}
	if r.refreshTimeout <= 0 {
		r.refreshTimeout = refreshTimeout
	}
	if !r.public {
		// One identity may hold several tokens, and an identity that a gateway
		// proves says nothing of the callers behind it.
		r.vary = append(r.vary[:len(r.vary):len(r.vary)], "authorization")
	}
	if !r.readFields(policy.GetKeyFields()) {
		return nil
	}
	literal, tags := tagsOf(meta, policy.GetTags())
	r.tags = tags
	r.subjects = append([]string{everything, methodSubject(meta.FullMethod)}, literal...)
	for _, subject := range r.subjects[1:] {
		r.own = append(r.own, c.generations.own(subject))
	}
	r.readOutput()
	r.method.tellApartBy(r.fields)
	r.method.rule.Store(r)
	return r
}

// readFields reports whether the fields can be told in a request.
func (r *rule) readFields(texts []string) bool {
	if len(texts) > 0 && r.meta.Descriptor == nil {
		return false
	}
	for _, text := range texts {
		path, err := interceptors.FieldPath(r.meta.Descriptor.Input(), text)
		if err != nil {
			return false
		}
		r.fields = append(r.fields, path)
	}
	return true
}

func (r *rule) readOutput() {
	if r.options.store == nil || r.meta.Descriptor == nil {
		return
	}
	output, err := protoregistry.GlobalTypes.FindMessageByName(r.meta.Descriptor.Output().FullName())
	if err == nil {
		r.output, r.schema = output, schemaOf(output.Descriptor())
	}
}

// shareOf is the bound of a method's own, 0 if it has none.
func shareOf(policy *policyv1.CacheRule, all uint64) int64 {
	if policy.MaxShare == nil {
		return 0
	}
	return max(1, int64(policy.GetMaxShare()*float64(all)))
}

func negatives(rules []*policyv1.NegativeRule) map[codes.Code]time.Duration {
	var all map[codes.Code]time.Duration
	for _, n := range rules {
		if code, err := interceptors.ParseCode(n.GetCode()); err == nil {
			if all == nil {
				all = map[codes.Code]time.Duration{}
			}
			all[code] = duration(n.GetTtl())
		}
	}
	return all
}

// duration is 0 for one that cannot be read, which policies refuse.
func duration(text string) time.Duration {
	d, _ := interceptors.ParseDuration(text)
	return d
}

func (r *rule) finish(ctx context.Context, result Result) {
	r.method.results.add(result)
	if result != Bypass {
		r.method.recent.add(result.Served(), time.Now())
	}
	interceptors.Publish(ctx, r.meta, r.options.observer, result)
}
