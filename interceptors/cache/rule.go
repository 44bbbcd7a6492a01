package cache

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is the cache policy of one method on one side, parsed once and never changed. A new
// policy has new rules, which share the state of the method.
type rule struct {
	cache  *Cache
	scope  string
	meta   *interceptors.CallMeta
	method *method // its state
	ttl    time.Duration
	// staleWhileRevalidate and staleIfError are how long past its ttl an answer is served
	// while a newer one is fetched, and instead of a failure.
	staleWhileRevalidate, staleIfError time.Duration
	mustRevalidate                     bool
	negative                           map[codes.Code]time.Duration // how long a failure is fresh
	public                             bool
	vary                               []string // metadata keys
	fields                             []fieldPath
	// subjects are what all answers belong to, and invalidatedAt their generations; tags
	// are the subjects that depend on the request.
	subjects      []string
	invalidatedAt []*generation
	tags          []*interceptors.Tag

	earlyRefreshBeta float64 // of XFetch, 0 for no early refresh
	refreshTimeout   time.Duration
	maxBytes         int64 // of the method, 0 if only the bound of the cache counts
	shadow           bool
	// output is the message type of answers, and schema its fingerprint. Without a contract
	// both are empty, and the store is not used.
	output protoreflect.MessageType
	schema string
}

// newRule is nil where the policy caches nothing.
func newRule(c *Cache, scope string, meta *interceptors.CallMeta) *rule {
	policy := meta.Policy.GetCache()
	ttl := duration(policy.GetTtl())
	if ttl <= 0 || !meta.Cacheable() || !meta.Side.On(policy.GetSide(), interceptors.Client) {
		return nil
	}
	fields, ok := keyFieldsOf(meta, policy.GetKeyFields())
	if !ok {
		return nil
	}
	r := &rule{
		cache:                c,
		scope:                scope,
		meta:                 meta,
		method:               c.methods.of(meta.FullMethod),
		ttl:                  ttl,
		staleWhileRevalidate: duration(policy.GetStaleWhileRevalidate()),
		staleIfError:         duration(policy.GetStaleIfError()),
		mustRevalidate:       policy.GetMustRevalidate(),
		public:               policy.GetScope() == policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
		vary:                 policy.GetVary(),
		fields:               fields,
		negative:             negatives(policy.GetNegative()),
		earlyRefreshBeta:     policy.GetEarlyRefresh(),
		refreshTimeout:       duration(meta.Policy.GetTimeout()),
		maxBytes:             maxBytesOf(policy, c.options.maxBytes),
		shadow:               policy.GetShadow(),
	}
	if r.refreshTimeout <= 0 {
		r.refreshTimeout = defaultRefreshTimeout
	}
	if !r.public {
		// One identity may hold several tokens, and behind a gateway's identity there
		// are many callers.
		r.vary = append(r.vary[:len(r.vary):len(r.vary)], "authorization")
	}
	literal, tags := tagsOf(meta, policy.GetTags())
	r.tags = tags
	r.subjects = append([]string{everything, methodSubject(meta.FullMethod)}, literal...)
	for _, subject := range r.subjects[1:] {
		r.invalidatedAt = append(r.invalidatedAt, c.memory.generations.of(subject))
	}
	if c.options.store != nil {
		r.output, r.schema = outputOf(meta)
	}
	r.method.addKeyFields(r.fields)
	r.method.rule.Store(r)
	return r
}

// keyFieldsOf returns false where the request has no such fields or no known contract.
func keyFieldsOf(meta *interceptors.CallMeta, texts []string) (fields []fieldPath, ok bool) {
	if len(texts) > 0 && meta.Descriptor == nil {
		return nil, false
	}
	for _, text := range texts {
		path, err := interceptors.FieldPath(meta.Descriptor.Input(), text)
		if err != nil {
			return nil, false
		}
		fields = append(fields, path)
	}
	return fields, true
}

// outputOf is the linked type of answers, or a dynamic one if the contract was read.
func outputOf(meta *interceptors.CallMeta) (protoreflect.MessageType, string) {
	if meta.Descriptor == nil {
		return nil, ""
	}
	descriptor := meta.Descriptor.Output()
	output, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil || output.Descriptor() != descriptor {
		output = dynamicpb.NewMessageType(descriptor)
	}
	return output, schemaOf(descriptor)
}

// tagsOf splits tags into subjects, for those without fields, and templates that are
// filled from the request.
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

// maxBytesOf is the bound of one method, 0 if it has none.
func maxBytesOf(policy *policyv1.CacheRule, all uint64) int64 {
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

// duration is 0 for junk, which policies refuse.
func duration(text string) time.Duration {
	d, _ := interceptors.ParseDuration(text)
	return d
}
