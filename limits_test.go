package meshlite_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/internal/limitspage"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// readLimits reads the limits of the page.
func readLimits(t *testing.T, page http.Handler) (rates []limitspage.Limiter, running []limitspage.Concurrency) {
	t.Helper()
	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, localRequest(http.MethodGet, "/debug/meshlite", nil))
	var told struct {
		Limits      limitspage.Page
		Concurrency limitspage.ConcurrencyPage
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &told); err != nil {
		t.Fatalf("%v in %s", err, answer.Body)
	}
	return told.Limits.Limiters, told.Concurrency.Limiters
}

// oneAMinute is a policy with a limit of one call a minute, which is tried once.
func oneAMinute() meshlite.Option {
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache:      &policyv1.CacheRule{Ttl: proto.String("0s")},
		Retry:      &policyv1.RetryRule{MaxAttempts: proto.Uint32(1)},
		RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: proto.Uint64(1), Period: proto.String("1m")}},
	}})
}

// The server refuses the second call, and the channel holds back the third.
func TestTheAdminPageShowsAllLimits(t *testing.T) {
	m := newMesh(t)
	given, err := concurrency.New()
	if err != nil {
		t.Fatal(err)
	}
	m.serve(&shop{name: "a"}, oneAMinute(), meshlite.WithRuntime(m.runtime), meshlite.WithConcurrency(given))
	client, _ := m.client("consul:///catalog", uncached())
	for _, want := range []codes.Code{codes.OK, codes.ResourceExhausted, codes.ResourceExhausted} {
		if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}); status.Code(err) != want {
			t.Errorf("it answers %v, want %v", err, want)
		}
	}
	rates, running := readLimits(t, adminPage(t, m.runtime))
	if len(rates) != 2 || rates[0].Name != "catalog" || rates[1].Name != "consul:///catalog" {
		t.Fatalf("it shows %+v", rates)
	}
	if s := rates[0]; s.Admitted != 1 || s.Refused != 1 || len(s.Limits) != 1 || s.Limits[0].Refused != 1 || s.Limits[0].PeriodSeconds != 60 || len(s.HotKeys) != 1 || s.HotKeys[0].Used < 0.9 {
		t.Errorf("of the server's it shows %+v", s)
	}
	if c := rates[1]; c.HeldBack != 1 || len(c.Limits) != 0 {
		t.Errorf("of the channel's it shows %+v", c)
	}
	if len(running) != 2 || running[0].Name != "runtime" || running[1].Name != "catalog" {
		t.Errorf("of handlers it shows %+v", running)
	}
	expect(t, m.runtime, 1, "meshlite_ratelimit_held_back_total")
	expect(t, m.runtime, 1, "meshlite_ratelimit_hot_keys", "limit=all")
}

// A channel's limiter goes with the channel.
func TestTheRuntimeKeepsNoLimiterAlive(t *testing.T) {
	m := newMesh(t)
	page := adminPage(t, m.runtime)
	func() {
		conn, err := meshlite.NewClient("passthrough:///localhost:1", meshlite.WithPlaintext(), meshlite.WithRuntime(m.runtime))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if rates, _ := readLimits(t, page); len(rates) != 1 {
			t.Errorf("it shows %d limiters, want 1", len(rates))
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.GC() {
		if rates, _ := readLimits(t, page); len(rates) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it is still there after 10s")
		}
	}
}
