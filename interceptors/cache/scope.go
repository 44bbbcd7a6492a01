package cache

import (
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Scoped is a part of a cache whose answers nobody outside of it is given. It is
// a concern like the cache itself.
type Scoped struct {
	cache *Cache
	scope string
}

// In is the part of c for one scope. Servers that share a cache need a scope each,
// since their handlers may answer differently; so do channels whose targets have
// one name and mean different things.
func (c *Cache) In(scope string) *Scoped { return &Scoped{c, scope} }

// Stage is [interceptors.Cache].
func (s *Scoped) Stage() interceptors.Stage { return interceptors.Cache }

// UnaryClient is the part in calls of one method, nil where the policy caches
// and invalidates nothing on the client.
func (s *Scoped) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if i := s.cache.newInvalidation(meta); i != nil {
		return i.client
	}
	if r := s.cache.newRule(s.scope, meta); r != nil {
		return r.client
	}
	return nil
}

// UnaryServer is the part in handling one method, nil where the policy caches and invalidates
// nothing on the server.
func (s *Scoped) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if i := s.cache.newInvalidation(meta); i != nil {
		return i.server
	}
	if r := s.cache.newRule(s.scope, meta); r != nil {
		return r.server
	}
	return nil
}
