package meshlite_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/explained"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const (
	explainKey   = "x-meshlite-explain"
	explainedKey = "x-meshlite-explain-bin"
	getSweetName = "sweetshop.catalog.v1.CatalogService/GetSweet"
)

// handler is a catalog whose GetSweet is a function.
type handler struct {
	catalogv1.UnimplementedCatalogServiceServer
	get func(ctx context.Context, id string) error
}

func (h *handler) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if err := h.get(ctx, req.GetId()); err != nil {
		return nil, err
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId()}}, nil
}

// trusting is a runtime whose servers answer callers on this machine.
func trusting(t *testing.T) *meshlite.Runtime {
	t.Helper()
	callers, err := caller.New(caller.WithTrustedPrefixes(netip.MustParsePrefix("127.0.0.0/8")))
	if err != nil {
		t.Fatal(err)
	}
	return configured(t, meshlite.RuntimeConfig{Callers: callers})
}

// explainCall makes a call and returns what happened to it.
func explainCall(t *testing.T, client catalogv1.CatalogServiceClient, id string) (*hop.Hop, metadata.MD, error) {
	t.Helper()
	ctx, asked := explained.Ask(t.Context())
	var trailer metadata.MD
	_, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}, grpc.Trailer(&trailer))
	calls := asked.Calls()
	if len(calls) != 1 {
		t.Fatalf("%d calls are explained, want 1", len(calls))
	}
	return calls[0], trailer, err
}

// only is the one attempt of a call.
func only(t *testing.T, call *hop.Hop) hop.Attempt {
	t.Helper()
	if len(call.Attempts) != 1 {
		t.Fatalf("%d attempts, want 1: %s", len(call.Attempts), shown(call))
	}
	return call.Attempts[0]
}

func shown(h *hop.Hop) string {
	text, _ := json.MarshalIndent(h, "", " ")
	return string(text)
}

// What happened to a call is in its record, on the client and on a server that trusts it.
func TestACallIsExplained(t *testing.T) {
	m := newMesh(t)
	limit, most := uint64(10), uint32(5)
	ruled := meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		RateLimits:  []*policyv1.RateLimitRule{{Name: "all", Limit: &limit}},
		Concurrency: &policyv1.ConcurrencyRule{Max: &most},
	}})
	m.serveCatalog(&handler{get: func(ctx context.Context, _ string) error {
		if len(metadata.ValueFromIncomingContext(ctx, explainKey)) > 0 {
			t.Error("the handler receives the key")
		}
		return nil
	}}, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)), ruled, meshlite.WithLocality("eu", "a"))
	client, _ := m.client("consul:///catalog")
	for i, want := range []string{"miss", "hit"} {
		call, trailer, err := explainCall(t, client, "secret-request")
		if err != nil {
			t.Fatal(err)
		}
		if len(trailer[explainedKey]) > 0 {
			t.Error("the caller's trailer has the explanation")
		}
		if call.Side != "client" || call.Method != getSweetName || call.Code != "OK" || call.Target != "consul:///catalog" ||
			call.Cache == nil || call.Cache.Result != want || call.Deadline == nil || call.Deadline.By != "policy" || call.Deadline.Left != 2000 {
			t.Fatalf("call %d: %s", i+1, shown(call))
		}
		if text := shown(call); strings.Contains(text, "secret-request") {
			t.Errorf("the record has a value of the request: %s", text)
		}
		if want == "hit" {
			if len(call.Attempts) != 0 || call.Cache.Age <= 0 {
				t.Errorf("a hit: %s", shown(call))
			}
			continue
		}
		sent := only(t, call)
		if call.Cache.Why != "nothing was stored" || sent.Number != 1 || sent.Address != m.instances("catalog")[0] || sent.Zone != "a" ||
			sent.Policy != "meshlite_least_request" || sent.Candidates != 1 || sent.Code != "OK" || sent.Server == nil {
			t.Fatalf("the attempt: %s", shown(call))
		}
		s := sent.Server
		if s.Side != "server" || s.Service != "catalog" || s.Instance != m.registered("catalog")[0].ID || s.Zone != "a" || s.Method != getSweetName || s.Code != "OK" || s.Handler == nil ||
			!strings.HasPrefix(s.Peer, "127.0.0.1:") || s.Caller != "" || s.Deadline == nil || s.Deadline.By != "caller" {
			t.Errorf("the server: %s", shown(s))
		}
		if len(s.Limits) != 1 || s.Limits[0].Name != "all" || s.Limits[0].Result != "admitted" || s.Limits[0].Left == nil || *s.Limits[0].Left != 9 {
			t.Errorf("limits: %s", shown(s))
		}
		if s.Concurrency == nil || *s.Concurrency != (hop.Concurrency{Result: "admitted", Running: 1, Limit: 5}) {
			t.Errorf("concurrency: %s", shown(s))
		}
	}
}

// A server answers nobody that it does not trust, and its handler cannot pass the question on.
func TestOnlyTrustedCallersAreAnswered(t *testing.T) {
	m := newMesh(t)
	m.serveCatalog(&handler{get: func(ctx context.Context, _ string) error {
		if len(metadata.ValueFromIncomingContext(ctx, explainKey)) > 0 {
			t.Error("the handler receives the key")
		}
		return nil
	}}, meshlite.WithPlaintext())
	client, _ := m.client("consul:///catalog", uncached())
	call, _, err := explainCall(t, client, "x")
	if sent := only(t, call); err != nil || sent.Server != nil || !strings.Contains(sent.Silent, "does not trust this caller") {
		t.Errorf("%v: %s", err, shown(call))
	}
	for _, value := range []string{"1", "8", "9999999999999999999", "", "-1", "yes"} {
		if trailer := rawTrailer(t, m, value, "x"); len(trailer[explainedKey]) > 0 {
			t.Errorf("a stranger that sends %q is answered", value)
		}
	}
}

// rawTrailer is that of a call of grpc-go with the key.
func rawTrailer(t *testing.T, m *mesh, value, id string) metadata.MD {
	t.Helper()
	var trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), explainKey, value)
	if _, err := plain(t, m.instances("catalog")[0]).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	return trailer
}

// What the key asks for is cut to 8 servers, and what is no number asks for nothing.
func TestTheKeySaysThroughHowManyServers(t *testing.T) {
	m := newMesh(t)
	m.serveCatalog(&handler{get: func(ctx context.Context, _ string) error { return nil }}, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)))
	for value, answered := range map[string]bool{"1": true, "8": true, "99": true, "0": false, "-1": false, "": false, "yes": false} {
		if got := len(rawTrailer(t, m, value, "x")[explainedKey]) == 1; got != answered {
			t.Errorf("%q: answered %v, want %v", value, got, answered)
		}
	}
}

// depth is how many servers stand one behind the other, and last the client behind the last.
func depth(t *testing.T, h *hop.Hop) (servers int, last *hop.Hop) {
	t.Helper()
	for {
		sent := only(t, h)
		if sent.Server == nil {
			return servers, h
		}
		servers++
		if len(sent.Server.Calls) == 0 {
			return servers, h
		}
		h = sent.Server.Calls[0]
	}
}

// A service that calls itself is explained 8 times, and a wide one within 8 KiB.
func TestExplanationsAreBounded(t *testing.T) {
	m := newMesh(t)
	var client catalogv1.CatalogServiceClient
	var widest atomic.Int64
	h := &handler{get: func(ctx context.Context, id string) error {
		kind, rest, _ := strings.Cut(id, "-")
		n, _ := strconv.Atoi(rest)
		call := func(id string) {
			if _, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}); err != nil {
				t.Error(err)
			}
		}
		switch {
		case kind == "deep" && n > 0:
			call(fmt.Sprintf("deep-%d", n-1))
		case kind == "wide" && n > 0:
			var all sync.WaitGroup
			for range n {
				all.Go(func() { call("leaf") })
			}
			all.Wait()
			widest.Add(1)
		case kind == "tree" && n > 0:
			for range 4 {
				call(fmt.Sprintf("tree-%d", n-1))
			}
		}
		return nil
	}}
	m.serveCatalog(h, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)))
	never, once := "0s", uint32(1)
	client, _ = m.client("consul:///catalog", meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{Ttl: &never}, Retry: &policyv1.RetryRule{MaxAttempts: &once}, Timeout: &never, // however slow the machine is
	}}))

	call, _, err := explainCall(t, client, "deep-12")
	if err != nil {
		t.Fatal(err)
	}
	if n, last := depth(t, call); n != 8 || !strings.Contains(last.Attempts[0].Silent, "behind 8 others") {
		t.Errorf("%d servers one behind the other, want 8, and the last says why: %s", n, shown(last))
	}
	call, _, err = explainCall(t, client, "wide-100")
	if err != nil || widest.Load() != 1 {
		t.Fatal(err)
	}
	if s := only(t, call).Server; s == nil || len(s.Calls) == 0 || len(s.Calls) > 32 || len(s.Calls)+s.LeftOut < 100 {
		t.Errorf("of 100 calls: %s", shown(call))
	}
	call, _, err = explainCall(t, client, "tree-3")
	if err != nil {
		t.Fatal(err)
	}
	if s := only(t, call).Server; s == nil || len(s.Calls) != 4 || count(call) < 40 || count(call)+leftOut(call) != 2*(1+4+16+64) {
		t.Errorf("of a tree of 170 hops %d are there and %d are left out", count(call), leftOut(call))
	}
	for _, id := range []string{"deep-12", "wide-100", "tree-3"} {
		trailer := rawTrailer(t, m, "8", id)
		if n := len(trailer[explainedKey][0]) * 4 / 3; n > 8<<10 {
			t.Errorf("%s: %d bytes on the wire, want 8 KiB at most", id, n)
		}
	}
}

func count(h *hop.Hop) int {
	n := 1
	for _, a := range h.Attempts {
		if a.Server != nil {
			n += count(a.Server)
		}
	}
	for _, c := range h.Calls {
		n += count(c)
	}
	return n
}

func leftOut(h *hop.Hop) int {
	n := h.LeftOut
	for _, a := range h.Attempts {
		if a.Server != nil {
			n += leftOut(a.Server)
		}
	}
	for _, c := range h.Calls {
		n += leftOut(c)
	}
	return n
}

// An answer that is kept has no explanation of the call that has brought it, on either side.
func TestKeptAnswersHaveNoExplanation(t *testing.T) {
	m := newMesh(t)
	cached := "1 minute"
	for side, target := range map[policyv1.Side]string{policyv1.Side_SIDE_SERVER: "server", policyv1.Side_SIDE_CLIENT: "client"} {
		t.Run(target, func(t *testing.T) {
			policy := meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: &cached, Side: side}}})
			var ran atomic.Int64
			stop := m.serveCatalog(&handler{get: func(ctx context.Context, _ string) error { ran.Add(1); return nil }}, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)), policy)
			defer stop()
			off := []meshlite.ClientOption{policy, meshlite.WithRuntime(newRuntime(t))}
			client, conn := m.client("consul:///catalog", off...)
			if _, _, err := explainCall(t, client, "x"); err != nil {
				t.Fatal(err)
			}
			// The key by hand, with a channel that answers from the same cache.
			byHand := metadata.AppendToOutgoingContext(t.Context(), explainKey, "8")
			var trailer metadata.MD
			request, reply := &catalogv1.GetSweetRequest{Id: "y"}, &catalogv1.GetSweetResponse{}
			for range 2 { // a miss, and a hit
				if err := conn.Invoke(byHand, "/"+getSweetName, request, reply, grpc.Trailer(&trailer)); err != nil {
					t.Fatal(err)
				}
			}
			if side == policyv1.Side_SIDE_CLIENT && len(trailer[explainedKey]) > 0 {
				t.Error("an answer of the client's cache has an explanation")
			}
			for _, id := range []string{"x", "y"} {
				trailer = nil
				if err := conn.Invoke(t.Context(), "/"+getSweetName, &catalogv1.GetSweetRequest{Id: id}, reply, grpc.Trailer(&trailer)); err != nil {
					t.Fatal(err)
				}
				if len(trailer[explainedKey]) > 0 {
					t.Errorf("a kept answer for %s has another call's explanation", id)
				}
			}
			if n := ran.Load(); n != 2 {
				t.Errorf("the handler ran %d times, want 2: all else is kept", n)
			}
			call, _, err := explainCall(t, client, "x")
			if err != nil {
				t.Fatal(err)
			}
			at := call
			if side == policyv1.Side_SIDE_SERVER {
				at = only(t, call).Server
			}
			if at == nil || at.Cache == nil || at.Cache.Result != "hit" || at.Handler != nil {
				t.Errorf("the hit is not explained as one: %s", shown(call))
			}
		})
	}
}

// Retries, failures, panics and calls that end early are in the record, too.
func TestFailuresAreExplained(t *testing.T) {
	m := newMesh(t)
	var failures atomic.Int64
	entered := make(chan struct{}, 1)
	m.serveCatalog(&handler{get: func(ctx context.Context, id string) error {
		switch id {
		case "retried":
			if failures.Add(1) == 1 {
				return status.Error(codes.Unavailable, "secret message")
			}
		case "panics":
			panic("secret message")
		case "cancelled":
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		case "huge":
			return status.Error(codes.NotFound, strings.Repeat("x", 5100))
		}
		return nil
	}}, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)))
	client, conn := m.client("consul:///catalog")

	call, _, err := explainCall(t, client, "retried")
	if err != nil || len(call.Attempts) != 2 {
		t.Fatalf("%v: %s", err, shown(call))
	}
	first, second := call.Attempts[0], call.Attempts[1]
	if first.Code != "Unavailable" || first.Verdict != "again" || first.Server == nil || first.Server.Code != "Unavailable" || second.Number != 2 || second.Code != "OK" || second.Server == nil || second.Started < first.Duration {
		t.Errorf("the attempts: %s", shown(call))
	}
	if strings.Contains(shown(call), "secret") {
		t.Errorf("a message is repeated: %s", shown(call))
	}

	call, _, err = explainCall(t, client, "panics")
	if s := only(t, call).Server; status.Code(err) != codes.Internal || s == nil || !s.Panicked || s.Code != "Internal" || call.Panicked {
		t.Errorf("a panic: %v: %s", err, shown(call))
	}
	if call, _, err = explainCall(t, client, "huge"); status.Code(err) != codes.NotFound || !strings.Contains(only(t, call).Silent, "no room") {
		t.Errorf("a status that leaves no room: %v: %s", status.Code(err), shown(call))
	}

	ctx, cancel := context.WithCancel(t.Context())
	ctx, asked := explained.Ask(ctx)
	go func() { <-entered; cancel() }()
	_, err = client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "cancelled"})
	if calls := asked.Calls(); status.Code(err) != codes.Canceled || calls[0].Code != "Canceled" || only(t, calls[0]).Silent != "no server has answered" {
		t.Errorf("a cancelled call: %v: %s", err, shown(calls[0]))
	}

	// A call that nobody wants explained after one that somebody wanted.
	var trailer metadata.MD
	if err := conn.Invoke(t.Context(), "/"+getSweetName, &catalogv1.GetSweetRequest{Id: "z"}, &catalogv1.GetSweetResponse{}, grpc.Trailer(&trailer)); err != nil || len(trailer[explainedKey]) > 0 {
		t.Errorf("%v, trailer %v", err, trailer)
	}
}

// A call that nobody wants explained allocates as much as one of ends that explain nothing.
func TestCallsThatNobodyAsksAboutAllocateNothingMore(t *testing.T) {
	if racetest.Enabled {
		t.Skip("the race detector allocates, too")
	}
	with := newEnds(t)
	t.Setenv("MESHLITE_DISABLE", "explained")
	without := newEnds(t)
	for name, ends := range map[string][2]catalogv1.CatalogServiceClient{"client": {with.client, without.client}, "server": {with.server, without.server}} {
		if a, b := allocated(t, ends[0], 0), allocated(t, ends[1], 0); a > b {
			t.Errorf("the %s allocates %.0f times, and %.0f without the concern", name, a, b)
		}
	}
}

// What authorizes a call says in its record why.
func TestDecisionsAreExplained(t *testing.T) {
	m := newMesh(t)
	m.serveCatalog(&handler{get: func(context.Context, string) error { return nil }}, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)),
		meshlite.WithPolicy(withIntentions(&policyv1.SourceIntention{Name: "web", Action: allowed})))
	client, _ := m.client("consul:///catalog")
	call, _, err := explainCall(t, client, "x")
	want := []hop.Decision{{Policy: "policy_intentions", Reason: "the caller has no verified certificate"}}
	if s := only(t, call).Server; status.Code(err) != codes.PermissionDenied || s == nil || s.Code != "PermissionDenied" || s.Handler != nil || !slices.Equal(s.Authorization, want) {
		t.Errorf("%v: %s", err, shown(call))
	}
}

// lockedBuffer may be written by several loggers.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// The spans and the log lines of a call that is explained show its record.
func TestSpansAndLinesShowTheRecord(t *testing.T) {
	m := newMesh(t)
	limit := uint64(10)
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	traced, err := tracing.New(tracing.WithTracerProvider(provider))
	if err != nil {
		t.Fatal(err)
	}
	var lines lockedBuffer
	log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m.serveCatalog(&handler{get: func(context.Context, string) error { return nil }}, meshlite.WithPlaintext(), meshlite.WithRuntime(trusting(t)), meshlite.WithTracing(traced), meshlite.WithLogger(log),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: &limit}}}}))
	client, _ := m.client("consul:///catalog", meshlite.WithTracing(traced), meshlite.WithLogger(log))
	call, _, err := explainCall(t, client, "x")
	if err != nil {
		t.Fatal(err)
	}
	var facts []string
	for _, span := range spans.GetSpans() {
		for _, a := range span.Attributes {
			facts = append(facts, string(a.Key)+"="+a.Value.AsString())
		}
	}
	for _, want := range []string{"meshlite.deadline.by=policy", "meshlite.deadline.by=caller", "meshlite.cache.why=nothing was stored", "meshlite.ratelimit.all.left=9"} {
		if !slices.Contains(facts, want) {
			t.Errorf("no span has %s: %q", want, facts)
		}
	}
	for _, want := range []string{"deadline.by=policy", `cache.why="nothing was stored"`, "ratelimit.all.left=9"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("no line has %s:\n%s", want, lines.String())
		}
	}
	if s := only(t, call).Server; s == nil || call.TraceID == "" || call.TraceID != s.TraceID {
		t.Errorf("the traces of %s", shown(call))
	}
}
