package demo

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/openloop"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// fakeShop answers after a time, and refuses the abusive customer.
type fakeShop struct {
	takes    atomic.Int64 // time.Duration
	err      error
	inFlight atomic.Int64
	most     atomic.Int64

	mu    sync.Mutex
	calls map[string]int // by customer
}

func (f *fakeShop) serve(ctx context.Context) error {
	n := f.inFlight.Add(1)
	defer f.inFlight.Add(-1)
	for most := f.most.Load(); n > most && !f.most.CompareAndSwap(most, n); most = f.most.Load() {
	}
	if _, limited := ctx.Deadline(); !limited {
		return status.Error(codes.Internal, "a call has no deadline")
	}
	select {
	case <-time.After(time.Duration(f.takes.Load())):
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	sent, _ := metadata.FromOutgoingContext(ctx)
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[sent.Get("who")[0]]++
	f.mu.Unlock()
	if sent.Get("who")[0] == abuser {
		return status.Error(codes.ResourceExhausted, "enough")
	}
	return f.err
}

func (f *fakeShop) Browse(ctx context.Context, _ *storefrontv1.BrowseRequest, _ ...grpc.CallOption) (*storefrontv1.BrowseResponse, error) {
	return &storefrontv1.BrowseResponse{}, f.serve(ctx)
}

func (f *fakeShop) PlaceOrder(ctx context.Context, _ *storefrontv1.PlaceOrderRequest, _ ...grpc.CallOption) (*storefrontv1.PlaceOrderResponse, error) {
	return &storefrontv1.PlaceOrderResponse{}, f.serve(ctx)
}

var fewWares = wares{pages: []*storefrontv1.BrowseRequest{{}, {Section: "chewy"}}, sweets: []string{"acid-drops", "lemon-sherbet"}}

// runLoad sends load for a time.
func runLoad(t *testing.T, f *fakeShop, length time.Duration) progress {
	t.Helper()
	l := newLoad(f, "who")
	l.begin(t.Context(), fewWares, length)
	time.Sleep(time.Until(l.start.Add(length)))
	l.finish()
	return l.tally.read()
}

func TestLoadKeepsItsRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeShop{}
		f.takes.Store(int64(5 * time.Millisecond))
		got := runLoad(t, f, 12*time.Second)
		for p, want := range map[phase]uint64{steady: 4 * ordinaryRate, doubled: 8 * ordinaryRate, faults: 8 * ordinaryRate} {
			c := got.phases[p]
			if c.sent < want-1 || c.sent > want+1 || c.done != c.sent || c.failed != 0 || c.late != 0 {
				t.Errorf("%v: %d sent, %d done, %d failed, %d late; want %d", p, c.sent, c.done, c.failed, c.late, want)
			}
			if c.orders*orderEvery+orderEvery < c.sent {
				t.Errorf("%v: %d of %d calls are orders", p, c.orders, c.sent)
			}
			if q := c.latency.quantile(0.99); q < 5*time.Millisecond || q > 6*time.Millisecond {
				t.Errorf("%v: p99 is %v, want 5ms", p, q)
			}
		}
		if want := uint64(12 * abusiveRate); got.abuse.refused < want-1 || got.abuse.admitted != 0 {
			t.Errorf("abuse: %+v, want %d refused", got.abuse, want)
		}
	})
}

// While the shop hangs, as many calls as there are places wait for it; the others
// are sent late and their latency counts from when they were due.
func TestLoadIsOpenLoopAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places, length = 500, 24 * time.Second
		f := &fakeShop{}
		f.takes.Store(int64(callTimeout - time.Millisecond))
		l := newLoad(f, "who")
		l.loop = openloop.New(places)
		l.begin(t.Context(), fewWares, length)
		time.Sleep(18 * time.Second)
		f.takes.Store(0)
		time.Sleep(length - 18*time.Second)
		l.finish()

		if most := f.most.Load(); most != places {
			t.Errorf("%d calls were in flight at most, want %d", most, places)
		}
		read := l.tally.read()
		total := read.total()
		if want := uint64((8 + 2*16) * ordinaryRate); total.sent < want-2 || total.sent > want+2 {
			t.Errorf("%d calls were sent, want %d: none is left out", total.sent, want)
		}
		if total.late == 0 {
			t.Error("no call is said to be late")
		}
		if q := total.latency.quantile(1); q < callTimeout {
			t.Errorf("the longest latency is %v, want more than a call takes", q)
		}
	})
}

func TestFailuresAreCountedAndNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeShop{err: status.Error(codes.Unavailable, "closed")}
		l := newLoad(f, "who")
		l.begin(t.Context(), fewWares, 6*time.Second)
		time.Sleep(6 * time.Second)
		l.finish()
		read := l.tally.read()
		total := read.total()
		if total.failed != total.done || total.failed == 0 {
			t.Errorf("%d of %d failed, want all", total.failed, total.done)
		}
		if n := l.tally.reasons["Unavailable in phase doubled: closed"]; n != total.failed-read.phases[steady].failed-read.phases[faults].failed {
			t.Errorf("the reasons are %v", l.tally.reasons)
		}
	})
}

func TestReasonsAreBounded(t *testing.T) {
	tally := newTally()
	for i := range 100 {
		tally.done(steady, 0, status.Errorf(codes.Internal, "reason %d", i))
	}
	if n := len(tally.reasons); n != maxReasons {
		t.Errorf("%d reasons are kept, want %d", n, maxReasons)
	}
}

// A load that is stopped counts nothing as failed.
func TestStoppedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeShop{}
		f.takes.Store(int64(time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		l := newLoad(f, "who")
		l.begin(ctx, fewWares, 6*time.Second)
		time.Sleep(2500 * time.Millisecond)
		cancel()
		l.finish()
		read := l.tally.read()
		if total := read.total(); total.failed != 0 || total.done == 0 {
			t.Errorf("%d of %d failed, want none", total.failed, total.done)
		}
	})
}

// bigShop has a few sections of a few pages.
type bigShop struct{ fakeShop }

func (*bigShop) Browse(_ context.Context, r *storefrontv1.BrowseRequest, _ ...grpc.CallOption) (*storefrontv1.BrowseResponse, error) {
	page := &storefrontv1.BrowseResponse{}
	for _, section := range []string{"boiled", "chewy"} {
		if r.GetSection() == "" || r.GetSection() == section {
			page.Offers = append(page.Offers, &storefrontv1.Offer{Sweet: &catalogv1.Sweet{Id: section + r.GetPageToken(), Section: section}})
		}
	}
	page.NextPageToken = map[string]string{"": "2", "2": "3"}[r.GetPageToken()]
	return page, nil
}

func TestLookSeesTheWholeShop(t *testing.T) {
	w, err := look(t.Context(), &bigShop{})
	if err != nil || len(w.pages) != 9 || len(w.sweets) != 6 {
		t.Errorf("got %d pages and %d sweets, %v; want 3 pages of all and of each of 2 sections, and 6 sweets", len(w.pages), len(w.sweets), err)
	}
	if _, err := look(metadata.AppendToOutgoingContext(t.Context(), "who", "x"), &fakeShop{}); err == nil {
		t.Error("an empty shop is no error")
	}
}

func TestWishesAreTheSameEachTime(t *testing.T) {
	a, b := newWishes(fewWares), newWishes(fewWares)
	for n := range 100 {
		x, y := a.nth(n), b.nth(n)
		if x.customer != y.customer || (x.order != nil) != (n%orderEvery == 0) || x.order.GetSweetId() != y.order.GetSweetId() {
			t.Fatalf("wish %d is %v and %v", n, x, y)
		}
	}
}
