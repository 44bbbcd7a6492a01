package cache

import (
	"bytes"
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// shadowAges are the bounds by which comparisons are told apart: candidates for a ttl.
var shadowAges = [...]time.Duration{time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

// comparison counts answers in shadow mode by the age that they would have been served at;
// the last is above all bounds.
type comparison [len(shadowAges) + 1]struct{ compared, changed atomic.Uint64 }

func (c *comparison) add(age time.Duration, changed bool) {
	i := 0
	for i < len(shadowAges) && age > shadowAges[i] {
		i++
	}
	c[i].compared.Add(1)
	if changed {
		c[i].changed.Add(1)
	}
}

// compare makes the call in any case, and compares its answer with what would have been
// served. That stays until its ttl is over, as it would have.
func (r *rule) compare(ctx context.Context, a *asked) (*entry, Result, error) {
	would, key := r.lookup(a)
	if r.judge(would, a.wishes, time.Now()) != fresh {
		_, err := r.obtain(ctx, a, key, nil)
		return nil, Miss, err
	}
	age := time.Since(would.born)
	got, err := a.origin.fetch(ctx, "")
	switch code := status.Code(err); code {
	case codes.OK:
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return nil, Miss, err // it says nothing of the answer
	default:
		return nil, r.compared(age, would.failure.Code() != code), err
	}
	body := got.body
	if body == nil && got.message != nil {
		body, _ = deterministic.Marshal(got.message) // without a body it is another
	}
	return nil, r.compared(age, would.failure != nil || !bytes.Equal(body, would.body)), nil
}

func (r *rule) compared(age time.Duration, changed bool) Result {
	r.method.compare.add(age, changed)
	if changed {
		return ShadowStale
	}
	return ShadowHit
}
