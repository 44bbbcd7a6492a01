package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	_ "google.golang.org/grpc/health/grpc_health_v1" // Watch is a stream
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	_ "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1" // Reserve has side effects
)

// Case T14: A mirror neither delays nor fails its caller, stops at its bound, and is never mirrored again.
func TestAStuckTargetDelaysNobodyAndStopsAtTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{answer: func(ctx context.Context, _ []byte) (proto.Message, error) {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}
		m, by := mirrored(t, to, rule("catalog-next", 100))
		begin := time.Now()
		for range 100 {
			if err := call(t, by, shop); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("callers have waited %v for copies", waited)
		}
		synctest.Wait()
		if s := only(t, m); s.InFlight != 64 || s.Dropped["calls"] != 36 || len(s.Codes) != 0 {
			t.Errorf("of 100 copies: %+v, want 64 in flight and the others dropped", s)
		}
		time.Sleep(10*time.Second + 1)
		synctest.Wait()
		if s := only(t, m); s.InFlight != 0 || s.Codes["DeadlineExceeded"] != 64 {
			t.Errorf("after 10 s: %+v", s)
		}
		if err := call(t, by, shop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := only(t, m); s.InFlight != 1 {
			t.Errorf("the places are not given back: %+v", s)
		}
		m.Close()
		if s := only(t, m); s.InFlight != 0 || s.Dropped["closed"] != 1 || to.closed.Load() != 1 {
			t.Errorf("closed: %+v, and %d channels closed", s, to.closed.Load())
		}
		if err := call(t, by, shop); err != nil {
			t.Fatal(err)
		}
		if s := only(t, m); s.Dropped["closed"] != 2 || to.dialed.Load() != 1 {
			t.Errorf("a call after the end: %+v, %d dialed", s, to.dialed.Load())
		}
	})
}

// Case T14
func TestATargetThatIsDownFailsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, to := range []*place{
			{refuse: errors.New("no such service")},
			{answer: func(context.Context, []byte) (proto.Message, error) {
				return nil, status.Error(codes.Unavailable, "down")
			}},
			{answer: func(context.Context, []byte) (proto.Message, error) { panic("credentials of the program") }},
		} {
			m, by := mirrored(t, to, rule("catalog-next", 100))
			for range 10 {
				if err := call(t, by, shop); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			s := only(t, m)
			if n := s.Codes["FailedPrecondition"] + s.Codes["Unavailable"] + s.Codes["Internal"]; n != 10 || s.Codes["OK"] != 0 || s.InFlight != 0 || s.LastError == "" {
				t.Errorf("%+v", s)
			}
		}
	})
}

// Case T14
func TestBytesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{answer: func(ctx context.Context, _ []byte) (proto.Message, error) { <-ctx.Done(); return nil, ctx.Err() }}
		m, by := mirrored(t, to, rule("catalog-next", 100))
		for range 10 { // of 3 MiB each
			request := &catalogv1.GetSweetRequest{Id: strings.Repeat("x", 3<<20)}
			if err := by(t.Context(), getSweet, request, &catalogv1.GetSweetResponse{}, nil, shop); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if s := only(t, m); s.InFlight != 5 || s.Dropped["bytes"] != 5 {
			t.Errorf("of 10 copies with 3 MiB: %+v, want 5 within 16 MiB", s)
		}
	})
}

func TestTargetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{}
		m, err := mirror.New(to.dial)
		if err != nil {
			t.Fatal(err)
		}
		m.Open()
		defer m.Close()
		policies := policiesOf(t, nil)
		by := m.UnaryClientInterceptor(policies)
		turn := func(i int) {
			t.Helper()
			next := &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {Mirror: rule(fmt.Sprint("next-", i), 100)}}}
			if err := policies.SetOperator(next); err != nil {
				t.Fatal(err)
			}
			if err := call(t, by, shop); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for i := range 9 {
			turn(i)
		}
		if s := m.Stats()[8]; to.dialed.Load() != 8 || s.Target != "next-8" || s.Dropped["targets"] != 1 || len(s.Codes) != 0 {
			t.Errorf("%d targets of 9 are dialed, the last is %+v", to.dialed.Load(), s)
		}
		time.Sleep(time.Minute + 1)
		turn(8)
		if s := m.Stats()[8]; to.dialed.Load() != 9 || to.closed.Load() != 1 || s.Codes["OK"] != 1 {
			t.Errorf("%d dialed, %d closed, the last is %+v: want it in the place of an unused one", to.dialed.Load(), to.closed.Load(), s)
		}
	})
}

func TestThePercentIsExact(t *testing.T) {
	for percent, want := range map[float64]int{0.01: 1, 0.07: 7, 1: 100, 33.33: 3333, 100: 10_000} {
		t.Run(fmt.Sprint(percent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				to := &place{}
				_, by := mirrored(t, to, rule("catalog-next", percent))
				for i := range 10_000 {
					if err := call(t, by, shop); err != nil {
						t.Fatal(err)
					}
					if i%50 == 49 {
						synctest.Wait() // so that none is dropped
					}
					if got := to.count(); i%1000 == 999 && (float64(got) < percent*float64(i+1)/100-3 || float64(got) > percent*float64(i+1)/100+3) {
						t.Fatalf("%d of %d calls are copied", got, i+1)
					}
				}
				if got := to.count(); got != want {
					t.Errorf("%d of 10,000 calls are copied, want %d", got, want)
				}
			})
		})
	}
}

func TestThePercentIsExactForCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{}
		_, by := mirrored(t, to, rule("catalog-next", 0.5))
		var calling sync.WaitGroup
		for range 50 { // whose copies are within the bound all at once
			calling.Go(func() {
				for range 200 {
					_ = call(t, by, shop)
				}
			})
		}
		calling.Wait()
		synctest.Wait()
		if got := to.count(); got != 50 {
			t.Errorf("%d of 10,000 calls are copied, want 50", got)
		}
	})
}

func TestACallThatIsNotCopiedCostsNoAllocation(t *testing.T) {
	for name, rule := range map[string]*policyv1.MirrorRule{"no rule": nil, "not picked": rule("catalog-next", 0.01)} {
		_, by := mirrored(t, &place{}, rule)
		request, reply := &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{}
		invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
		base := testing.AllocsPerRun(1000, func() {
			ctx, _ := attempt.FromOrNew(t.Context(), attempt.Unary)
			_ = invoker(ctx, getSweet, request, reply, nil)
		})
		// The record, and the call that the chain itself makes.
		if n := testing.AllocsPerRun(1000, func() { _ = by(t.Context(), getSweet, request, reply, nil, invoker) }); n > base {
			t.Errorf("%s: %v allocations, %v without the concern", name, n, base)
		}
	}
}

// The request belongs to the caller again when its call returns, and so does the answer.
//
// Case T14
func TestTheCallerMayChangeItsMessagesAfterTheCall(t *testing.T) {
	var at sync.WaitGroup // copies wait until the messages have changed
	at.Add(1)
	to := &place{answer: func(context.Context, []byte) (proto.Message, error) { at.Wait(); return sweet("fudge"), nil }}
	r := rule("catalog-next", 100)
	r.Compare = proto.Bool(true)
	m, by := mirrored(t, to, r)
	for range 20 {
		request, reply := &catalogv1.GetSweetRequest{Id: "fudge"}, &catalogv1.GetSweetResponse{}
		if err := by(t.Context(), getSweet, request, reply, nil, shop); err != nil {
			t.Fatal(err)
		}
		request.Id, reply.Sweet.Name = "toffee", "Toffee"
	}
	at.Done()
	for s := only(t, m); s.Same+s.Different < 20; s = only(t, m) {
		time.Sleep(time.Millisecond)
	}
	for _, c := range to.received() {
		got := &catalogv1.GetSweetRequest{}
		if err := proto.Unmarshal(c.request, got); err != nil || got.GetId() != "fudge" {
			t.Errorf("copied %v, %v", got, err)
		}
	}
	if s := only(t, m); s.Same != 20 {
		t.Errorf("%+v, want all to be the same", s)
	}
}

// Case T14
func TestACopyIsNeverCopiedAndTheMarkIsPassedOn(t *testing.T) {
	to := &place{}
	m, by := mirrored(t, to, rule("catalog-next", 100))
	handler := metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-meshlite-mirror", "1"))
	if !interceptors.Mirrored(handler) || interceptors.Mirrored(t.Context()) {
		t.Error("the handler of a copy is not recognized")
	}
	unruled := m.UnaryClientInterceptor(policiesOf(t, nil))
	stream := interceptors.Alone(interceptors.Client, policiesOf(t, nil), m).StreamClient()
	for name, made := range map[string]func(context.Context, func(context.Context)) error{
		"with a rule":    func(ctx context.Context, seen func(context.Context)) error { return unary(ctx, by, seen) },
		"without a rule": func(ctx context.Context, seen func(context.Context)) error { return unary(ctx, unruled, seen) },
		"stream": func(ctx context.Context, seen func(context.Context)) error {
			_, err := stream(ctx, &grpc.StreamDesc{}, nil, "/p.S/Watch", func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
				seen(ctx)
				return nil, errors.New("no stream here")
			})
			if err == nil {
				return errors.New("no error")
			}
			return nil
		},
	} {
		for _, ctx := range []context.Context{
			handler,
			metadata.NewOutgoingContext(handler, metadata.Pairs("authorization", "other")), // the handler's own metadata
			metadata.NewOutgoingContext(handler, metadata.Pairs("x-meshlite-mirror", "1")), // a proxy
		} {
			var md metadata.MD
			if err := made(ctx, func(ctx context.Context) { md, _ = metadata.FromOutgoingContext(ctx) }); err != nil {
				t.Fatal(err)
			}
			if got := md.Get("x-meshlite-mirror"); len(got) != 1 || got[0] != "1" {
				t.Errorf("%s: the mark is %q, want it once", name, got)
			}
		}
	}
	// A proxy whose handler has no incoming metadata.
	if err := unary(metadata.AppendToOutgoingContext(t.Context(), "x-meshlite-mirror", "1"), by, func(context.Context) {}); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if got := to.received(); len(got) != 0 || len(only(t, m).Dropped) != 0 {
		t.Errorf("%d copies of copies, %+v", len(got), only(t, m))
	}
}

func unary(ctx context.Context, by grpc.UnaryClientInterceptor, seen func(context.Context)) error {
	return by(ctx, getSweet, &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{}, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			seen(ctx)
			return nil
		})
}

type token struct{ credentials.PerRPCCredentials }

// A copy has what the call has sent, and nothing that would write to the caller's variables.
func TestACopyHasTheMetadataAndCredentialsOfItsCall(t *testing.T) {
	to := &place{}
	m, by := mirrored(t, to, rule("catalog-next", 100))
	md := metadata.Pairs("authorization", "Bearer x", "tenant", "a", "tenant", "b")
	var header, trailer metadata.MD
	finished := 0
	err := by(metadata.NewOutgoingContext(t.Context(), md), getSweet, &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{}, nil, shop,
		grpc.Header(&header), grpc.Trailer(&trailer), grpc.OnFinish(func(error) { finished++ }), grpc.WaitForReady(true),
		grpc.PerRPCCredentials(token{}), grpc.UseCompressor(gzip.Name), grpc.CallAuthority("catalog"))
	if err != nil {
		t.Fatal(err)
	}
	md.Set("tenant", "changed")
	for len(only(t, m).Codes) == 0 {
		time.Sleep(time.Millisecond)
	}
	c := to.received()[0]
	if fmt.Sprint(c.md["authorization"], c.md["tenant"], c.md["x-meshlite-mirror"]) != "[Bearer x] [a b] [1]" || len(c.md) != 3 {
		t.Errorf("metadata %v", c.md)
	}
	var kinds []string
	for _, o := range c.options {
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", o), "grpc."))
	}
	if got := strings.Join(kinds, " "); got != "PerRPCCredsCallOption CompressorCallOption ForceCodecV2CallOption MaxRecvMsgSizeCallOption" {
		t.Errorf("options %s", got)
	}
}

// A limit that refuses, or a service without instances, is not a call to copy; a call that has
// failed on the network is.
func TestOnlyCallsThatReachTheNetworkAreCopied(t *testing.T) {
	to := &place{}
	m, by := mirrored(t, to, rule("catalog-next", 100))
	refused := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		return status.Error(codes.ResourceExhausted, "limit")
	}
	failed := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		attempt.FromContext(ctx).Next().SetPicked(&attempt.Instance{ID: "a"}) // by a retry
		return status.Error(codes.NotFound, "no fudge")
	}
	if err := call(t, by, refused); status.Code(err) != codes.ResourceExhausted {
		t.Fatal(err)
	}
	if err := call(t, by, failed); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	for len(only(t, m).Codes) == 0 {
		time.Sleep(time.Millisecond)
	}
	m.Close()
	if got := to.count(); got != 1 {
		t.Errorf("%d copies, want that of the call that was sent", got)
	}
}

// An operator turns it on, moves it and turns it off while the program runs.
func TestAnOperatorChangesTheRuleLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{}
		m, err := mirror.New(to.dial, mirror.WithChannel("consul:///catalog"))
		if err != nil {
			t.Fatal(err)
		}
		m.Open()
		defer m.Close()
		policies := policiesOf(t, rule("catalog-next", 0))
		by := m.UnaryClientInterceptor(policies)
		for i, step := range []struct {
			rule *policyv1.MirrorRule
			want string
		}{
			{nil, "[]"},
			{&policyv1.MirrorRule{Percent: proto.Float64(100)}, "[catalog-next]"},
			{&policyv1.MirrorRule{Percent: proto.Float64(100), Target: proto.String("catalog/v2")}, "[catalog/v2]"},
			{&policyv1.MirrorRule{Percent: proto.Float64(0)}, "[]"},
		} {
			if err := policies.SetOperator(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {Mirror: step.rule}}}); err != nil {
				t.Fatal(err)
			}
			before := to.count()
			if err := call(t, by, shop); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			targets := []string{}
			for _, c := range to.received()[before:] {
				targets = append(targets, c.target)
			}
			if fmt.Sprint(targets) != step.want {
				t.Errorf("step %d: copies to %v, want %s", i, targets, step.want)
			}
		}
		for _, s := range m.Stats() {
			if s.Percent != 0 || s.Codes["OK"] != 1 || s.Channel != "consul:///catalog" {
				t.Errorf("at the end %+v", s)
			}
		}
	})
}

func TestRulesAreChecked(t *testing.T) {
	ignoring := func(path string) *policyv1.MirrorRule {
		r := rule("catalog-next", 1)
		r.Ignore = []string{path}
		return r
	}
	for _, test := range []struct {
		method string
		rule   *policyv1.MirrorRule
		want   string // "" is accepted
	}{
		{"GetSweet", rule("catalog-next", 1), ""},
		{"GetSweet", rule("catalog/v2", 0.01), ""},
		{"GetSweet", &policyv1.MirrorRule{Percent: proto.Float64(0)}, ""},
		{"ListSweets", ignoring("sweets.price_pence"), ""},
		{"GetSweet", rule("", 1), "mirror.target"},
		{"GetSweet", rule("a/b/c", 1), `mirror.target: "a/b/c"`},
		{"GetSweet", rule("a/", 1), "mirror.target"},
		{"GetSweet", rule("a\n", 1), "mirror.target"},
		{"GetSweet", rule(strings.Repeat("x", 257), 1), "mirror.target"},
		{"GetSweet", rule("catalog-next", 101), "mirror.percent: 101"},
		{"GetSweet", rule("catalog-next", -1), "mirror.percent: -1"},
		{"GetSweet", rule("catalog-next", 0.005), "mirror.percent: 0.005"},
		{"GetSweet", &policyv1.MirrorRule{Target: proto.String("catalog-next")}, "mirror.percent: missing"},
		{"GetSweet", &policyv1.MirrorRule{Percent: proto.Float64(1)}, "mirror.target: missing"},
		{"GetSweet", ignoring("sweet.prize"), `mirror.ignore[0]: "sweet.prize"`},
		{"GetSweet", ignoring("sweet.id.x"), "mirror.ignore[0]"},
		{"GetSweet", ignoring(""), "mirror.ignore[0]"},
		{"Reserve", rule("inventory-next", 1), "Reserve may not run twice"},
		{"Reserve", &policyv1.MirrorRule{Target: proto.String("inventory-next"), Percent: proto.Float64(1), AllowSideEffects: proto.Bool(true)}, ""},
		{"grpc.health.v1.Health/Watch", rule("catalog-next", 1), "Watch is a stream"},
	} {
		_, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{test.method: {Mirror: test.rule}}})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v: %v, want %q", test.rule, err, test.want)
		}
	}
	everywhere := &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Mirror: rule("next", 1)}}
	policies, err := interceptors.NewPolicies(everywhere) // passes over what may not be copied
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{getSweet: "", "/sweetshop.inventory.v1.InventoryService/Reserve": "twice"} {
		plan := mirror.PlanOf(policies.Call(interceptors.Client, method))
		if plan == nil || (want == "") != (plan.Percent == 1 && plan.Why == "") || !strings.Contains(plan.Why, want) {
			t.Errorf("%s: %+v, want %q", method, plan, want)
		}
	}
	if plan := mirror.PlanOf(policies.Call(interceptors.Client, "/grpc.health.v1.Health/Watch")); plan != nil {
		t.Errorf("a default is for gRPC's own services: %+v", plan)
	}
	if plan := mirror.PlanOf(policiesOf(t, nil).Call(interceptors.Client, getSweet)); plan != nil {
		t.Errorf("without a rule: %+v", plan)
	}
	if _, err := mirror.New(nil); err == nil {
		t.Error("a mirror without a function to dial is accepted")
	}
}

// BenchmarkCall is what the concern costs a caller: without a rule, and with one for calls that are
// not copied.
func BenchmarkCall(b *testing.B) {
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	handler := metadata.NewIncomingContext(b.Context(), metadata.Pairs(":authority", "catalog", "content-type", "application/grpc", "user-agent", "grpc-go", "tenant", "a", "authorization", "x", "traceparent", "x"))
	for name, rule := range map[string]*policyv1.MirrorRule{"without a rule": nil, "not copied": rule("catalog-next", 0.01)} {
		for kind, ctx := range map[string]context.Context{"in a client": b.Context(), "in a handler": handler} {
			b.Run(name+" "+kind, func(b *testing.B) {
				_, by := mirrored(b, &place{}, rule)
				request, reply := &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{}
				b.ReportAllocs()
				for b.Loop() {
					_ = by(ctx, getSweet, request, reply, nil, invoker)
				}
			})
		}
	}
}

// A channel that leaves idleness opens before the resolver that it had is closed.
func TestItIsOpenWhileOneHasOpenedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{}
		m, err := mirror.New(to.dial)
		if err != nil {
			t.Fatal(err)
		}
		by := m.UnaryClientInterceptor(policiesOf(t, rule("catalog-next", 100)))
		for i, step := range []struct {
			change func()
			open   bool
		}{
			{func() {}, false}, {m.Close, false}, {m.Open, true}, {m.Open, true}, {m.Close, true}, {m.Close, false}, {m.Close, false}, {m.Open, true}, {m.Close, false},
		} {
			step.change()
			before := to.count()
			if err := call(t, by, shop); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := to.count() - before; (got == 1) != step.open {
				t.Errorf("step %d: %d copies, want open: %v", i, got, step.open)
			}
		}
		if to.dialed.Load() != 2 || to.closed.Load() != 2 {
			t.Errorf("%d channels dialed and %d closed, want 2 each", to.dialed.Load(), to.closed.Load())
		}
	})
}
