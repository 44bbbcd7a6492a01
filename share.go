package meshlite

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// unknownShare is that of a server which does not know of any other yet: neither all of
// a limit, which the others admit too, nor nothing.
const unknownShare = 0.5

// share is the server's part of the calls of its service: its weight among those of the
// instances that can be called, itself always included. They may be under several names.
type share struct {
	part atomic.Uint64 // bits of a float64

	mu    sync.Mutex
	own   catalog.Instance
	lists map[string][]catalog.Instance // by name
}

func newShare() *share {
	s := &share{lists: map[string][]catalog.Instance{}}
	s.part.Store(math.Float64bits(unknownShare))
	return s
}

func (s *share) of() float64 { return math.Float64frombits(s.part.Load()) }

// learn takes over the instances of a name.
func (s *share) learn(name string, list []catalog.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists[name] = list
	weights := map[string]uint32{s.own.Address: s.own.Weight}
	for _, list := range s.lists {
		for i := range list {
			weights[list[i].Address] = list[i].Weight
		}
	}
	all := 0.0
	for _, weight := range weights {
		all += float64(weight)
	}
	s.part.Store(math.Float64bits(float64(weights[s.own.Address]) / all))
}

// followReplicas keeps the share up to date until stop, if a limit needs it.
func (r *run) followReplicas(address string) {
	if !r.sharesLimits() {
		return
	}
	share := r.config.share
	share.mu.Lock()
	share.own = catalog.Instance{Address: address, Weight: r.config.weight}
	share.mu.Unlock()
	builder := r.config.runtime.site(r.config.directory).builder
	for _, name := range r.config.names {
		learn := func(list []catalog.Instance) { share.learn(name, list) }
		r.follows = append(r.follows, builder.Follow(catalog.Query{Service: name}, learn))
	}
}

// sharesLimits reports whether a limit of a method is divided among the replicas, if
// only while its store is away.
func (r *run) sharesLimits() bool {
	for service, info := range r.grpc.GetServiceInfo() {
		for _, method := range info.Methods {
			policy := r.config.policies.Call(interceptors.Server, "/"+service+"/"+method.Name).Policy
			for _, rule := range policy.GetRateLimits() {
				if !rule.GetDisabled() && interceptors.Server.On(rule.GetSide(), interceptors.Server) && rule.GetStore() > policyv1.RateLimitStore_RATE_LIMIT_STORE_LOCAL {
					return true
				}
			}
		}
	}
	return false
}
