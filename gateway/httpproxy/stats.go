package httpproxy

import (
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/balancer"
)

// Stats are the counters of a site since it was made, and the state of its instances. The
// gateway exports them as the metrics that are named here, with the label site; the instances by
// their state are meshlite_http_instances, and ejections meshlite_http_ejections_total.
type Stats struct {
	Name       string `json:"name"`
	Requests   uint64 `json:"requests"`         // forwarded: meshlite_http_requests_total
	Retries    uint64 `json:"retries"`          // sent again to another instance: meshlite_http_retries_total{reason="failed"}
	Moved      uint64 `json:"moved"`            // sent to another instance before one had them: {reason="unsent"}
	Unbudgeted uint64 `json:"retries_left_out"` // for lack of budget: meshlite_http_retries_left_out_total
	Rejected   uint64 `json:"rejected"`         // since too many were in flight: meshlite_http_rejected_total
	Failed     uint64 `json:"failed"`           // without an answer: meshlite_http_failed_total
	InFlight   int    `json:"in_flight"`        // meshlite_http_in_flight
	balancer.TableStats
}

type counters struct{ requests, retries, moved, unbudgeted, rejected, failed atomic.Uint64 }

func (t *transport) stats() Stats {
	c := &t.counts
	return Stats{
		Name: t.config.Name, Requests: c.requests.Load(), Retries: c.retries.Load(), Moved: c.moved.Load(), Unbudgeted: c.unbudgeted.Load(),
		Rejected: c.rejected.Load(), Failed: c.failed.Load(), InFlight: len(t.inFlight), TableStats: t.set.Endpoints(),
	}
}

// maxTokens is how many retries a site may make at once after a time without any.
const maxTokens = 100

// budget is a bucket of retries, as in gRFC A6: each request adds a part of one.
type budget struct {
	ratio float64

	mu     sync.Mutex
	tokens float64
}

func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+b.ratio, maxTokens)
}

func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
