package inventory_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	"github.com/meshlite-go/meshlite/services/inventory"
)

func TestNewRefuses(t *testing.T) {
	for want, opts := range map[string]inventory.Options{
		"latency is -1ms":   {Latency: -time.Millisecond},
		"latency is 1h0m0s": {Latency: time.Hour},
		"jitter is -1ms":    {Jitter: -time.Millisecond},
		"jitter is 1h0m0s":  {Jitter: time.Hour},
	} {
		if _, err := inventory.New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", opts, err, want)
		}
	}
}

func TestCallsTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, jitter = 20 * time.Millisecond, 10 * time.Millisecond
		service := stock(t, inventory.Options{Latency: latency, Jitter: jitter})
		taken := make(map[time.Duration]bool)
		for range 100 {
			start := time.Now()
			if _, err := service.GetStock(t.Context(), &inventoryv1.GetStockRequest{}); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			if took < latency || took > latency+jitter {
				t.Errorf("took %v, want %v to %v", took, latency, latency+jitter)
			}
			taken[took] = true
		}
		if len(taken) < 50 {
			t.Errorf("100 calls took only %d different times", len(taken))
		}
	})
}

// A caller that has gone is not waited for, and gets nothing reserved.
func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := stock(t, inventory.Options{Latency: time.Minute, Grams: 100})
		client := dial(t, service)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := client.Reserve(ctx, &inventoryv1.ReserveRequest{SweetId: "pear-drops", Grams: 100})
		wantError(t, err, codes.DeadlineExceeded)
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("took %v, want 10ms", took)
		}
		if _, err := client.Reserve(t.Context(), &inventoryv1.ReserveRequest{SweetId: "pear-drops", Grams: 100}); err != nil {
			t.Errorf("the call that ended took from the stock: %v", err)
		}
	})
}

func TestCanceledCallIsCanceled(t *testing.T) {
	service := stock(t, inventory.Options{Latency: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := service.GetStock(ctx, &inventoryv1.GetStockRequest{})
	wantError(t, err, codes.Canceled)
}
