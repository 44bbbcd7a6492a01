package concurrency

import (
	"github.com/meshlite-go/meshlite/interceptors"
)

// rule is a ConcurrencyRule as calls need it, with the defaults filled in.
type rule struct {
	bounds
	adaptive bool
	priority string // metadata key, "" for none
}

// bounds are the floor and the ceiling of a limit.
type bounds struct{ min, max int64 }

func (b bounds) clamp(n int64) int64 { return min(max(n, b.min), b.max) }

func (b bounds) clampFloat(n float64) float64 {
	return min(max(n, float64(b.min)), float64(b.max))
}

// newRule is nil where nothing is limited. A stream has no latency to tell of, so
// its limit is the ceiling.
func newRule(meta *interceptors.CallMeta, streams bool) *rule {
	policy := meta.Policy.GetConcurrency()
	if meta.Side != interceptors.Server || policy.GetMax() == 0 {
		return nil
	}
	if d := meta.Descriptor; d != nil && streams != (d.IsStreamingClient() || d.IsStreamingServer()) {
		return nil
	}
	r := &rule{
		bounds:   bounds{min: defaultMin, max: int64(policy.GetMax())},
		adaptive: policy.GetAdaptive() && !streams,
		priority: policy.GetPriorityMetadata(),
	}
	if policy.Min != nil {
		r.min = int64(policy.GetMin())
	}
	r.min = min(r.min, r.max)
	if !r.adaptive {
		r.min = r.max
	}
	return r
}
