package transcode_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// cached is a gateway whose channel caches, over a backend that counts. Its answers have the
// number of the call in them.
type cached struct {
	mux      *transcode.Mux
	cache    *cache.Cache
	policies *interceptors.Policies
	calls    int
	header   []string                 // of answers
	fail     func(*forms.Thing) error // nil is OK
	policy   transcode.CachePolicy    // of each method
	forward  []string                 // headers that become metadata
}

const literal = "forms.v1.FormsService/Literal"

// newCached runs in a bubble, so that time is the test's.
func newCached(t *testing.T, rule *policyv1.CacheRule, policy transcode.CachePolicy, opts ...cache.Option) *cached {
	t.Helper()
	g := &cached{policy: policy, forward: []string{"customer-id", "x-cache", "cache-control", "accept-language"}}
	b := &backend{handle: func(ctx context.Context, in *forms.Thing) (*forms.Thing, error) {
		g.calls++
		_ = grpc.SetHeader(ctx, metadata.Pairs(g.header...))
		if g.fail != nil {
			if err := g.fail(in); err != nil {
				return nil, err
			}
		}
		return &forms.Thing{Name: in.GetName(), Int32: int32(g.calls)}, nil
	}}
	callers, err := caller.New(caller.WithIdentityMetadata("customer-id"))
	if err != nil {
		t.Fatal(err)
	}
	if g.cache, err = cache.New(append(opts, cache.WithMaxBytes(1<<20), cache.WithCallers(callers))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.cache.Close)
	if g.policies, err = interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{literal: {Cache: rule}}}); err != nil {
		t.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Client, g.policies, g.cache)
	if err != nil {
		t.Fatal(err)
	}
	g.mux = newMuxOver(t, b.serve(t, chain.DialOptions()...), func(c *transcode.Config) {
		c.Headers = []string{"x-cache", "x-kept", "x-request-id"}
		c.Services[0].Cache = func(protoreflect.MethodDescriptor) transcode.CachePolicy { return g.policy }
		c.Metadata = func(r *http.Request) metadata.MD {
			md := metadata.MD{}
			for _, name := range g.forward {
				if values := r.Header.Values(name); len(values) > 0 {
					md[name] = values
				}
			}
			if subject := r.Header.Get("Subject"); subject != "" { // verified, in this test
				md.Set("x-meshlite-subject", subject)
			}
			return md
		}
	})
	return g
}

func (g *cached) get(t *testing.T, target string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	w := do(g.mux, "GET", target, "", headers...)
	if w.Code >= 500 {
		t.Errorf("GET %s: status %d, %s", target, w.Code, w.Body)
	}
	return w
}

func publicRule(ttl string) *policyv1.CacheRule {
	return &policyv1.CacheRule{Ttl: proto.String(ttl), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}
}

// Case E5: A cached answer has ETag, Age, Cache-Control; If-None-Match gives 304 without a call; a private answer is never shared between two authorizations and never public.
func TestACachedAnswerHasTheSemanticsOfHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newCached(t, publicRule("1 minute"), transcode.CachePolicy{TTL: time.Minute, Public: true})
		first := g.get(t, "/v1/literal?name=a")
		etag := first.Header().Get("ETag")
		time.Sleep(7 * time.Second)
		second := g.get(t, "/v1/literal?name=a")
		if g.calls != 1 || second.Body.String() != first.Body.String() {
			t.Errorf("%d calls, answers %s and %s", g.calls, first.Body, second.Body)
		}
		for name, want := range map[string]string{"ETag": etag, "Age": "7", "Cache-Control": "public, max-age=60", "Vary": "Authorization"} {
			if got := second.Header().Get(name); got != want || got == "" {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for _, tag := range []string{etag, "W/" + etag, `"other", ` + etag, "*"} {
			w := g.get(t, "/v1/literal?name=a", "If-None-Match", tag)
			if w.Code != http.StatusNotModified || w.Body.Len() > 0 || w.Header().Get("ETag") != etag || w.Header().Get("Age") != "7" || w.Header().Get("Cache-Control") == "" || g.calls != 1 {
				t.Errorf("if-none-match %s: status %d, %v, %q, %d calls", tag, w.Code, w.Header(), w.Body, g.calls)
			}
		}
		if w := g.get(t, "/v1/literal?name=a", "If-None-Match", `"other"`); w.Code != 200 {
			t.Errorf("another tag: status %d", w.Code)
		}
		if w := do(g.mux, "HEAD", "/v1/literal?name=a", ""); w.Header().Get("ETag") != etag || w.Body.Len() > 0 || g.calls != 1 {
			t.Errorf("HEAD: %v, %q, %d calls", w.Header(), w.Body, g.calls)
		}
		time.Sleep(time.Minute)
		if w := g.get(t, "/v1/literal?name=a", "If-None-Match", etag); w.Code != 200 || g.calls != 2 || w.Header().Get("ETag") == etag {
			t.Errorf("expired and changed: status %d, %d calls, %v", w.Code, g.calls, w.Header())
		}
		// Somebody: the same answer, but no shared cache in front may store it.
		for _, headers := range [][]string{{"Authorization", "Bearer a"}, {"Subject", "alice"}} {
			if w := g.get(t, "/v1/literal?name=a", headers...); w.Header().Get("Cache-Control") != "private, max-age=60" {
				t.Errorf("%q: cache-control %q", headers, w.Header().Get("Cache-Control"))
			}
		}
	})
}

func TestAPrivateAnswerIsNeverSharedAndNeverPublic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := publicRule("1 minute")
		rule.Scope = policyv1.CacheScope_CACHE_SCOPE_PRIVATE
		g := newCached(t, rule, transcode.CachePolicy{TTL: time.Minute})
		alice := g.get(t, "/v1/literal", "Customer-Id", "alice").Body.String()
		bob := g.get(t, "/v1/literal", "Customer-Id", "bob").Body.String()
		if alice == bob || g.calls != 2 {
			t.Errorf("%d calls, answers %s and %s", g.calls, alice, bob)
		}
		for who, want := range map[string]string{"alice": alice, "bob": bob} {
			w := g.get(t, "/v1/literal", "Customer-Id", who)
			if w.Body.String() != want || g.calls != 2 || w.Header().Get("Cache-Control") != "private, max-age=60" || !strings.Contains(w.Header().Get("Vary"), "Authorization") {
				t.Errorf("%s: %s, %v, %d calls", who, w.Body, w.Header(), g.calls)
			}
		}
		g.get(t, "/v1/literal") // nobody: not stored
		g.get(t, "/v1/literal")
		if g.calls != 4 {
			t.Errorf("%d calls, want one each for nobody", g.calls)
		}
	})
}

func TestTheOriginShortensWhatThePolicyAllows(t *testing.T) {
	for _, test := range []struct {
		control string
		public  bool
		want    string
		etag    bool
	}{
		{"", true, "public, max-age=60", true},
		{"max-age=5", true, "public, max-age=5", true},
		{"max-age=500", true, "public, max-age=60", true},
		{"max-age=20, s-maxage=5", true, "public, max-age=5", true},
		{"private", true, "private, max-age=60", true},
		{"no-cache", true, "public, no-cache", true},
		{"must-revalidate", false, "private, max-age=60, must-revalidate", true},
		{"no-store", true, "no-store", false},
		{"public", false, "private, max-age=60", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newCached(t, nil, transcode.CachePolicy{TTL: time.Minute, Public: test.public})
			if test.control != "" {
				g.header = []string{"cache-control", test.control}
			}
			h := g.get(t, "/v1/literal").Header()
			if h.Get("Cache-Control") != test.want || (h.Get("ETag") != "") != test.etag {
				t.Errorf("%q, public %v: %v, want %q", test.control, test.public, h, test.want)
			}
		})
	}
}

func TestAnswersWithoutAPolicyAreRevalidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newCached(t, nil, transcode.CachePolicy{})
		h := g.get(t, "/v1/literal").Header()
		if h.Get("Cache-Control") != "private, no-cache" || h.Get("ETag") == "" {
			t.Errorf("GET: %v", h)
		}
		if h := do(g.mux, "POST", "/v1/bodies", "{}").Header(); h.Get("ETag") != "" || h.Get("Cache-Control") != "" {
			t.Errorf("POST: %v, want nothing about caches", h)
		}
	})
}

// Case E5
func TestOnlyWhatAURLNamesIsForCachesOfHTTP(t *testing.T) {
	const connect = "/forms.v1.FormsService/Literal?encoding=json&message=%7B%7D"
	for _, test := range []struct {
		method, target string
		headers        []string
		stored         bool
	}{
		{"GET", "/v1/literal", nil, true},
		{"HEAD", "/v1/literal", nil, true},
		{"GET", connect + "&connect=v1", nil, true},
		{"POST", "/forms.v1.FormsService/Literal", nil, false},
		{"POST", "/forms.v1.FormsService/Literal", []string{"Connect-Protocol-Version", "1"}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), transcode.CachePolicy{TTL: time.Minute, Public: true})
			body := ""
			if test.method == "POST" {
				body = "{}"
			}
			w := do(g.mux, test.method, test.target, body, append(test.headers, "Content-Type", "application/json", "If-None-Match", `"x"`)...)
			stored := strings.HasPrefix(w.Header().Get("ETag"), `"`) && w.Header().Get("Cache-Control") == "public, max-age=60"
			none := w.Header().Get("ETag") == "" && w.Header().Get("Cache-Control") == ""
			if w.Code != 200 || g.calls != 1 || test.stored && !stored || !test.stored && !none {
				t.Errorf("%s %s %q: status %d, %v, %d calls; want it for caches: %v", test.method, test.target, test.headers, w.Code, w.Header(), g.calls, test.stored)
			}
		})
	}
}

// The rows of the table "For those who know apicache" of package cache, through HTTP.
func TestApicacheRowByRow(t *testing.T) {
	minute := transcode.CachePolicy{TTL: time.Minute, Public: true}
	const target = "/v1/literal?name=a"
	// calls makes n equal GETs, and returns how many reached the backend.
	calls := func(t *testing.T, g *cached, n int, headers ...string) int {
		t.Helper()
		before := g.calls
		for range n {
			g.get(t, target, headers...)
		}
		return g.calls - before
	}
	want := func(t *testing.T, what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d calls, want %d", what, got, want)
		}
	}
	for row, check := range map[string]func(*testing.T){
		"duration strings": func(t *testing.T) {
			g := newCached(t, publicRule("5 minutes"), minute)
			want(t, "two GETs", calls(t, g, 2), 1)
			time.Sleep(5*time.Minute - time.Second)
			want(t, "before 5 minutes", calls(t, g, 1), 0)
			time.Sleep(2 * time.Second)
			want(t, "after 5 minutes", calls(t, g, 1), 1)
		},
		"defaultDuration": func(t *testing.T) {
			g := newCached(t, nil, minute)
			want(t, "no rule", calls(t, g, 2), 2)
			if err := g.policies.SetOperator(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: publicRule("1 minute")}}); err != nil {
				t.Fatal(err)
			}
			want(t, "the default", calls(t, g, 2), 1)
		},
		"middleware toggle": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute, cache.WithSkip(func(ctx context.Context, _ *interceptors.CallMeta) bool {
				md, _ := metadata.FromOutgoingContext(ctx)
				return len(md.Get("accept-language")) > 0
			}))
			want(t, "skipped", calls(t, g, 2, "Accept-Language", "de"), 2)
			want(t, "not skipped", calls(t, g, 2), 1)
		},
		"options of one route": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			for range 2 {
				g.get(t, "/forms.v1.FormsService/ImplicitSafe")
			}
			want(t, "without a rule", g.calls, 2)
			want(t, "with one", calls(t, g, 2), 1)
		},
		"statusCodes": func(t *testing.T) {
			rule := publicRule("1 minute")
			rule.Negative = []*policyv1.NegativeRule{{Code: "NOT_FOUND", Ttl: "10s"}}
			negative := minute
			negative.Negative = map[codes.Code]time.Duration{codes.NotFound: 10 * time.Second}
			g := newCached(t, rule, negative)
			for code, n := range map[codes.Code]int{codes.NotFound: 1, codes.FailedPrecondition: 2} {
				g.fail = func(*forms.Thing) error { return status.Error(code, "") }
				want(t, code.String(), calls(t, g, 2, "Accept-Language", code.String()), n)
				control := g.get(t, target).Header().Get("Cache-Control")
				if code == codes.NotFound && control != "public, max-age=10" || code != codes.NotFound && n == 1 {
					t.Errorf("%v: cache-control %q", code, control)
				}
				time.Sleep(11 * time.Second)
				want(t, code.String()+", expired", calls(t, g, 1), 1)
				time.Sleep(11 * time.Second)
			}
			g.fail = func(*forms.Thing) error { return status.Error(codes.FailedPrecondition, "") }
			if control := g.get(t, target).Header().Get("Cache-Control"); control != "no-store" {
				t.Errorf("another code: cache-control %q", control)
			}
		},
		"enabled": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			want(t, "on", calls(t, g, 2), 1)
			if err := g.policies.SetOperator(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{literal: {Cache: &policyv1.CacheRule{Ttl: proto.String("0s")}}}}); err != nil {
				t.Fatal(err)
			}
			g.policy = transcode.CachePolicy{}
			want(t, "off", calls(t, g, 2), 2)
			if control := g.get(t, target).Header().Get("Cache-Control"); control != "private, no-cache" {
				t.Errorf("off: cache-control %q", control)
			}
		},
		"appendKey": func(t *testing.T) {
			rule := publicRule("1 minute")
			rule.Vary = []string{"accept-language"}
			vary := minute
			vary.Vary = []string{"accept-language"}
			g := newCached(t, rule, vary)
			want(t, "de", calls(t, g, 2, "Accept-Language", "de"), 1)
			want(t, "en", calls(t, g, 2, "Accept-Language", "en"), 1)
			if vary := g.get(t, target).Header().Get("Vary"); vary != "Accept-Language, Authorization" {
				t.Errorf("vary %q", vary)
			}
		},
		"headerBlacklist": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			g.header = []string{"x-request-id", "7", "x-kept", "k"}
			if h := g.get(t, target).Header(); h.Get("X-Request-Id") != "7" || h.Get("X-Kept") != "k" {
				t.Errorf("a miss: %v", h)
			}
			if h := g.get(t, target).Header(); h.Get("X-Request-Id") != "" || h.Get("X-Kept") != "k" {
				t.Errorf("a hit: %v", h)
			}
		},
		"headers, respectCacheControl": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			g.header = []string{"cache-control", "max-age=5"}
			if control := g.get(t, target).Header().Get("Cache-Control"); control != "public, max-age=5" {
				t.Errorf("cache-control %q", control)
			}
			time.Sleep(6 * time.Second)
			want(t, "after 5 s", calls(t, g, 1), 1)
		},
		"x-apicache-bypass, -force-fetch": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			want(t, "stored", calls(t, g, 2), 1)
			want(t, "no-cache", calls(t, g, 2, "Cache-Control", "no-cache"), 2)
			want(t, "no-store", calls(t, g, 2, "Cache-Control", "no-store"), 2)
			g.forward = nil // callers that are not trusted
			want(t, "no-cache of a stranger", calls(t, g, 2, "Cache-Control", "no-cache"), 0)
		},
		"groups, clear": func(t *testing.T) {
			rule := publicRule("1 minute")
			rule.Tags = []string{"thing:{name}"}
			g := newCached(t, rule, minute)
			for what, subject := range map[string]cache.Subject{"a tag": cache.Tag("thing:a"), "all": cache.Everything()} {
				want(t, "stored", min(calls(t, g, 2), 1), 1)
				if err := g.cache.Invalidate(t.Context(), subject); err != nil {
					t.Fatal(err)
				}
				want(t, what+" invalidated", calls(t, g, 2), 1)
				time.Sleep(2 * time.Minute)
			}
		},
		"getIndex, trackPerformance": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			calls(t, g, 3)
			if index := g.cache.Index(10); len(index) != 1 {
				t.Errorf("index %v", index)
			}
			if stats := g.cache.Stats(); stats.Hits != 2 || stats.Misses != 1 {
				t.Errorf("stats %+v", stats)
			}
		},
		"getDuration, cache-control countdown": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			for age := range 5 {
				w := g.get(t, target)
				if got := w.Header().Get("Age"); age > 0 && got != strconv.Itoa(age) {
					t.Errorf("age %q after %d s", got, age)
				}
				time.Sleep(time.Second)
			}
		},
		"events.expire": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			want(t, "a miss", calls(t, g, 1), 1)
			time.Sleep(61 * time.Second)
			want(t, "an expired entry", calls(t, g, 1), 1)
		},
		"debug": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			for _, result := range []string{"miss", "hit"} {
				if got := g.get(t, target, "X-Cache", "1").Header().Get("X-Cache"); got != result {
					t.Errorf("x-cache %q, want %q", got, result)
				}
			}
		},
		"newInstance": func(t *testing.T) {
			g, other := newCached(t, publicRule("1 minute"), minute), newCached(t, publicRule("1 minute"), minute)
			want(t, "each its own", calls(t, g, 2)+calls(t, other, 2), 2)
		},
		"ETag, If-None-Match, 304": func(t *testing.T) {
			g := newCached(t, publicRule("1 minute"), minute)
			w := g.get(t, target, "If-None-Match", g.get(t, target).Header().Get("ETag"))
			if w.Code != http.StatusNotModified || g.calls != 1 {
				t.Errorf("status %d, %d calls", w.Code, g.calls)
			}
		},
	} {
		t.Run(row, func(t *testing.T) { synctest.Test(t, check) })
	}
}
