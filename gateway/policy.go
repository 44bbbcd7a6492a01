package gateway

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// cachePolicies say for how long HTTP caches may keep the answers of methods, by the
// effective policies of a channel. It is safe for concurrent use.
type cachePolicies struct {
	policies *interceptors.Policies
	mu       sync.RWMutex
	version  any
	byMethod map[protoreflect.MethodDescriptor]transcode.CachePolicy // of version; the methods of one contract
}

// cacheOf is nil where no channel follows contracts. Of several that do, the one is taken
// that was found: they are to be made with the same policy.
func cacheOf(contracts *interceptors.Contracts) func(protoreflect.MethodDescriptor) transcode.CachePolicy {
	if contracts == nil {
		return nil
	}
	followers := contracts.Followers()
	if len(followers) == 0 {
		return nil
	}
	return (&cachePolicies{policies: followers[0]}).of
}

func (c *cachePolicies) of(method protoreflect.MethodDescriptor) transcode.CachePolicy {
	version := c.policies.Version()
	c.mu.RLock()
	known, ok := c.byMethod[method]
	ok = ok && c.version == version
	c.mu.RUnlock()
	if ok {
		return known
	}
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	made := cachePolicyOf(c.policies.Call(interceptors.Client, name))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version != version || c.byMethod == nil {
		c.version, c.byMethod = version, map[protoreflect.MethodDescriptor]transcode.CachePolicy{}
	}
	c.byMethod[method] = made
	return made
}

// cachePolicyOf is what the cache of a client goes by: what may be kept there may be kept
// one step further.
func cachePolicyOf(meta *interceptors.CallMeta) transcode.CachePolicy {
	rule := meta.Policy.GetCache()
	ttl := duration(rule.GetTtl())
	if ttl <= 0 || !meta.Cacheable() || rule.GetShadow() || !meta.Side.On(rule.GetSide(), interceptors.Client) {
		return transcode.CachePolicy{}
	}
	p := transcode.CachePolicy{
		TTL: ttl, Public: rule.GetScope() == policyv1.CacheScope_CACHE_SCOPE_PUBLIC, Vary: slices.Clone(rule.GetVary()),
		Negative: map[codes.Code]time.Duration{},
	}
	for _, negative := range rule.GetNegative() {
		if code, err := interceptors.ParseCode(negative.GetCode()); err == nil {
			p.Negative[code] = duration(negative.GetTtl())
		}
	}
	return p
}

// duration is 0 for junk, which policies refuse.
func duration(text string) time.Duration {
	d, _ := interceptors.ParseDuration(text)
	return d
}
