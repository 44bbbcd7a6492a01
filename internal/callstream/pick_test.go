package callstream

import (
	"context"
	"testing"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// counting picks nothing but a count of what was done.
type counting struct{ picks, done int }

func (c *counting) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	c.picks++
	return balancer.PickResult{Done: func(balancer.DoneInfo) { c.done++ }}, nil
}

// A pick is used by the picker that made it, once: a newer one may not have its connection, and
// gRPC would wait for the next picker, which may never come.
func TestAPickIsForItsPicker(t *testing.T) {
	client, inner := &Client{}, &counting{}
	old, latest := &picker{inner, client}, &picker{inner, client}
	made := func() *picked {
		return &picked{client: client, from: old, result: balancer.PickResult{Done: func(balancer.DoneInfo) { inner.done += 100 }}}
	}
	pick := func(p *picker, to *picked) {
		t.Helper()
		if _, err := p.Pick(balancer.PickInfo{Ctx: withPicked(t.Context(), to)}); err != nil {
			t.Fatal(err)
		}
	}
	to := made()
	if pick(old, to); inner.picks != 0 || !to.taken {
		t.Errorf("its own picker picks anew %d times", inner.picks)
	}
	if pick(old, to); inner.picks != 1 {
		t.Errorf("of a lost connection it picks anew %d times, want once", inner.picks)
	}
	to = made()
	if pick(latest, to); inner.picks != 2 || inner.done != 100 {
		t.Errorf("a newer picker picks anew %d times, want once, and the older pick is done: %d", inner.picks-1, inner.done)
	}
	if to.release(); inner.done != 100 {
		t.Errorf("it is done again: %d", inner.done)
	}
}

// The context of a stream goes through interceptors and credentials, which may call another channel.
func TestAPickIsForItsChannel(t *testing.T) {
	inner, stream := &counting{}, &picked{client: &Client{}, stream: true}
	other := &picker{inner, &Client{}}
	for range 2 {
		if _, err := other.Pick(balancer.PickInfo{Ctx: withPicked(t.Context(), stream)}); err != nil || stream.taken {
			t.Errorf("another channel takes the connection of a stream: %v, %v", stream.taken, err)
		}
	}
	own := &picker{inner, stream.client}
	ctx := withPicked(context.Background(), stream)
	if _, err := own.Pick(balancer.PickInfo{Ctx: ctx}); err != nil || !stream.taken {
		t.Errorf("its own channel does not: %v", err)
	}
	// gRPC would try a stream that no server has seen again, and wait for its connection.
	if _, err := own.Pick(balancer.PickInfo{Ctx: ctx}); !isLost(err) || status.Code(err) != codes.Unavailable {
		t.Errorf("the second time it gets %v", err)
	}
}
