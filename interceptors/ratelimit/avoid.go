package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// avoidance is a call of which some instances, or all, have refused the like.
type avoidance struct {
	*part
	kinds  []kind
	keys   [mostKinds]key // of the call, by kind
	broken [mostKinds]bool
	target string
	at     key // of target

	attempt.Avoid

	mu      sync.Mutex    // gRPC may pick in another goroutine than the caller's
	asked   time.Duration // when the service may be called again, if no instance may be now
	by      *kind         // why not
	probing *hold         // that this call finds out about
}

// avoidance is nil for a call that nobody has refused of late.
func (p *part) avoidance(ctx context.Context, req any, cc *grpc.ClientConn) *avoidance {
	all := p.kinds.Load()
	if all == nil {
		return nil
	}
	now := p.table.now()
	if !slices.ContainsFunc(*all, func(k kind) bool { return k.until.Load() > now }) {
		return nil
	}
	target := targetOf(cc)
	a := &avoidance{part: p, kinds: *all, target: target, at: p.table.seeds.hash(target)}
	for i := range a.kinds {
		found, _, err := a.kinds[i].key(ctx, req)
		a.keys[i], a.broken[i] = found.of(a.at), err != nil
	}
	a.For, a.Err = a.held, a.all
	return a
}

// held is for how long calls like this one are held back from an instance, or from the
// service where it is nil.
func (a *avoidance) held(i *attempt.Instance) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range a.kinds {
		if a.broken[n] {
			continue
		}
		if left := a.left(a.holds.find(a.keys[n].of(a.table.seeds.hashInstance(i)))); left > longest {
			longest, a.by = left, &a.kinds[n]
		}
	}
	return longest
}

// left is how long a hold still lasts for this call. When its time is over, one call
// finds out whether it still refuses, while others are held back a little longer.
func (a *avoidance) left(h *hold) time.Duration {
	now := a.table.now()
	switch {
	case h == nil || h == a.probing:
		return 0
	case now < h.until:
		return time.Duration(h.until - now)
	case now >= h.until+int64(probeTime): // nobody has come to find out
		return 0
	}
	probed := h.probed.Load()
	if a.probing == nil && now >= probed && h.probed.CompareAndSwap(probed, now+int64(probeTime)) {
		a.probing = h
		return 0
	}
	return max(time.Duration(probed-now), probeTime/10)
}

// all is the error of a call that no instance may get.
func (a *avoidance) all(shortest time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = max(shortest, 1)
	r := refusal{after: jittered(a.asked), quota: newQuotaFailure(&errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + a.by.limit,
		Description:     "held back by the client",
		ApiService:      a.meta.Service,
		QuotaId:         a.by.limit,
		QuotaDimensions: map[string]string{wire.QuotaKey: a.by.counts, wire.QuotaScope: wire.ScopeService},
	})}
	r.message = fmt.Sprintf("%s has refused such a call by its rate limit %q: held back here, try again in %v", a.target, a.by.limit, r.after)
	return r.err()
}

// refused reports whether no instance could be picked. There is none to avoid in nil.
func (a *avoidance) refused() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked > 0
}

// service fails a call that the whole service has refused, which needs no pick.
func (a *avoidance) service() error {
	if left := a.held(nil); left > 0 {
		return a.all(left)
	}
	return nil
}

// wait is for a call that no instance may get and err is the error of. Where the policy
// says that calls wait, and there is the time, it waits, and answers nil.
func (a *avoidance) wait(ctx context.Context, err error) error {
	a.heldBack.Add(1)
	if a.waitsFor(a.by.limit) && int64(a.asked) <= patienceOf(ctx) {
		return interceptors.Sleep(ctx, a.asked, err)
	}
	interceptors.Publish(ctx, a.meta, nil, &Event{a.by.limit, HeldBack, true})
	return err
}

// prepare has the attempt of record avoid the instances that have refused the like. It
// waits or fails where the whole service has. What it answers may be nil.
func (p *part) prepare(ctx context.Context, req any, cc *grpc.ClientConn, record *attempt.Record) (*avoidance, error) {
	for {
		a := p.avoidance(ctx, req, cc)
		if a == nil {
			return nil, nil
		}
		err := a.service()
		if err == nil {
			if record != nil {
				record.SetAvoid(&a.Avoid)
			}
			return a, nil
		}
		if err := a.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

// ended ends the probe of an attempt, if it has made one: the hold with it, if the call
// was answered by who is held back.
func (a *avoidance) ended(picked *attempt.Instance, code codes.Code) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.probing
	if h == nil {
		return
	}
	a.probing = nil
	whose := a.table.seeds.hashInstance(picked)
	asked := picked != nil && slices.ContainsFunc(a.keys[:len(a.kinds)], func(k key) bool { return h.key == k || h.key == k.of(whose) })
	switch {
	case asked && code == codes.ResourceExhausted: // a new hold, or none that says until when
	case !asked, code == codes.Canceled, code == codes.DeadlineExceeded, code == codes.Unavailable:
		h.probed.Store(0) // nothing is known
	default:
		a.holds.drop(h.key)
	}
}

// splitFinish takes the OnFinish options out, which gRPC would call at the end of an
// attempt after which the call goes on.
func splitFinish(all []grpc.CallOption) (opts []grpc.CallOption, finish func(error)) {
	var finishes []func(error)
	for _, option := range all {
		if f, ok := option.(grpc.OnFinishCallOption); ok {
			finishes = append(finishes, f.OnFinish)
		} else {
			opts = append(opts, option)
		}
	}
	return opts, func(err error) {
		for _, finish := range finishes {
			finish(err)
		}
	}
}
