package demo

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Customers are gentle: eight calls a second, and now and then one who asks for more at
// once than he may.
func TestGentleCustomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := &fakeShop{}
		shop.takes.Store(int64(time.Millisecond))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			newLoad(shop, "who").gently(ctx, fewWares, 60)
		}()
		time.Sleep(25*time.Second + 100*time.Millisecond)
		cancel()
		<-done
		all := 0
		for _, n := range shop.calls {
			all += n
		}
		if hasty := shop.calls[hurried]; hasty != 3*60 {
			t.Errorf("the hurried one has called %d times, want 180", hasty)
		}
		if ordinary := all - shop.calls[hurried]; ordinary < 195 || ordinary > 205 {
			t.Errorf("%d calls of ordinary customers in 25 s, want about 200", ordinary)
		}
		if len(shop.calls) < 20 || shop.most.Load() < 60 {
			t.Errorf("%d customers, %d calls at once", len(shop.calls), shop.most.Load())
		}
	})
}
