package meshlite_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func newCallers(t *testing.T, opts ...caller.Option) *caller.Callers {
	t.Helper()
	callers, err := caller.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return callers
}

// as is a call of a customer, of little priority.
func as(t *testing.T, customer string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "customer-id", customer, "priority", "sheddable")
}

// byCaller is a policy in which everything depends on who calls.
func byCaller(side policyv1.Side) meshlite.Option {
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{Ttl: proto.String("1 hour"), Side: side, Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE},
		Retry: &policyv1.RetryRule{MaxAttempts: proto.Uint32(1)},
		RateLimits: []*policyv1.RateLimitRule{{Name: "customer", Limit: proto.Uint64(3), Period: proto.String("1 hour"), Side: side,
			Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Identity{Identity: &policyv1.IdentityKey{}}}}},
		Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(10), PriorityMetadata: proto.String("priority")},
	}})
}

// The callers of a runtime are those of its cache, of limits, of priorities and of logs;
// without them nobody has an identity here, and nobody is trusted.
func TestCallersAreGivenOnce(t *testing.T) {
	ours := []caller.Option{caller.WithIdentityMetadata("customer-id"), caller.WithTrustedPrefixes(netip.MustParsePrefix("127.0.0.0/8"))}
	for name, test := range map[string]struct {
		callers  *caller.Callers
		verdicts string // of calls of alice and bob: answered, or refused by the limit
		handled  int64  // calls that no cache answered
		ignored  uint64 // priorities of callers who are not trusted
		lines    map[string]int
		logged   bool // their names are in the log
	}{
		"declared": {newCallers(t, ours...), "aabaAb", 2, 0, map[string]int{"metadata customer-id #": 6}, false},
		"no secret": {newCallers(t, append(ours, caller.WithLoggedIdentity())...), "aabaAb", 2, 0,
			map[string]int{"alice": 4, "bob": 2}, true},
		"default": {nil, "aabAAB", 3, 3, map[string]int{"": 6}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, log := newMesh(t), &journal{}
			runtime := configured(t, meshlite.RuntimeConfig{Callers: test.callers})
			served := m.serve(&shop{name: "a"}, byCaller(policyv1.Side_SIDE_SERVER), meshlite.WithRuntime(runtime),
				meshlite.WithLogger(slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
			verdicts := ""
			for _, customer := range []string{"alice", "alice", "bob", "alice", "alice", "bob"} {
				client, _ := m.client("consul:///catalog", uncached()) // a new one does not hold back
				_, err := client.GetSweet(as(t, customer), &catalogv1.GetSweetRequest{Id: "x"})
				switch status.Code(err) {
				case codes.OK:
					verdicts += customer[:1]
				case codes.ResourceExhausted:
					verdicts += strings.ToUpper(customer[:1])
				default:
					t.Fatal(err)
				}
			}
			if verdicts != test.verdicts || served.calls.Load() != test.handled {
				t.Errorf("verdicts %s and %d calls of the handler, want %s and %d", verdicts, served.calls.Load(), test.verdicts, test.handled)
			}
			_, running := readLimits(t, adminPage(t, runtime))
			if len(running) != 1 || len(running[0].Methods) != 1 || running[0].Methods[0].IgnoredPriorities != test.ignored {
				t.Errorf("%+v, want %d ignored priorities", running, test.ignored)
			}
			lines := map[string]int{}
			for _, line := range log.named(t, "call") {
				if line["method"] != catalogv1.CatalogService_GetSweet_FullMethodName {
					continue
				}
				shown, _ := line["caller"].(string)
				lines[shown]++
			}
			checkCallers(t, lines, test.lines)
			if names := strings.Contains(log.all(), "alice"); names != test.logged {
				t.Errorf("the log has the customer's name: %t, want %t:\n%s", names, test.logged, log.all())
			}
		})
	}
}

// checkCallers compares who has lines in a log; a caller wanted as "...#" is a hash, one
// for each customer.
func checkCallers(t *testing.T, got, want map[string]int) {
	t.Helper()
	merged, hashes := map[string]int{}, 0
	for shown, n := range got {
		if before, hash, ok := strings.Cut(shown, "#"); ok && len(hash) == 8 {
			shown, hashes = before+"#", hashes+1
		}
		merged[shown] += n
	}
	for shown, n := range want {
		if merged[shown] != n || len(merged) != len(want) || strings.HasSuffix(shown, "#") && hashes != 2 {
			t.Errorf("lines of callers %v, want %v", got, want)
		}
	}
}

// A channel's cache and limits use the same callers: no customer is given another's answer,
// and a call of nobody is not stored.
func TestAChannelUsesTheCallersOfItsRuntime(t *testing.T) {
	m := newMesh(t)
	served := m.serve(&shop{name: "a"}, uncached())
	m.runtime = configured(t, meshlite.RuntimeConfig{Callers: newCallers(t, caller.WithIdentityMetadata("customer-id"))})
	client, _ := m.client("consul:///catalog", byCaller(policyv1.Side_SIDE_CLIENT))
	for _, test := range []struct {
		ctx     context.Context
		id      string
		handled int64
		code    codes.Code
	}{
		{as(t, "alice"), "x", 1, codes.OK}, {as(t, "alice"), "x", 1, codes.OK}, {as(t, "bob"), "x", 2, codes.OK},
		{t.Context(), "x", 3, codes.OK}, {t.Context(), "x", 4, codes.OK},
		{as(t, "alice"), "y", 5, codes.OK}, {as(t, "alice"), "z", 6, codes.OK}, {as(t, "alice"), "u", 6, codes.ResourceExhausted},
		{as(t, "bob"), "u", 7, codes.OK},
	} {
		_, err := client.GetSweet(test.ctx, &catalogv1.GetSweetRequest{Id: test.id})
		if got := served.calls.Load(); status.Code(err) != test.code || got != test.handled {
			t.Errorf("%s: %v after %d calls, want %v after %d", test.id, err, got, test.code, test.handled)
		}
	}
}
