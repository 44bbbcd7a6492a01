package route_test

import (
	"errors"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/route"
)

func rewriting(prefix, exact, to string) *route.Route {
	return &route.Route{Name: "route 1", Match: route.Match{PathPrefix: prefix, PathExact: exact}, PrefixRewrite: to}
}

func TestPrefixesAreRewritten(t *testing.T) {
	for _, test := range []struct{ prefix, exact, to, path, want string }{
		{"/api/", "", "/v2/", "/api/a/b?c=d%2F", "/v2/a/b?c=d%2F"},
		{"/api", "", "/", "/api/a", "/a"}, // one slash, where Envoy makes two
		{"/api", "", "/", "/api", "/"},
		{"/api", "", "/v2", "/apis", "/v2s"}, // as Envoy does
		{"/", "", "/v2/", "/a", "/v2/a"},
		{"", "/old", "/new%20one", "/old?x", "/new%20one?x"},
		{"/api/", "", "/v2/", "/api/a%2Fb%20c/%E2%82%AC", "/v2/a%2Fb%20c/%E2%82%AC"}, // stays encoded
		{"/api/", "", "/v2/", "/%61p%69/a%2Fb", "/v2/a%2Fb"},
		{"/api/", "", "/v2/", "/api/%252e%252e/b", "/v2/%252e%252e/b"}, // is decoded once, by the service
		{"/api/", "", "/v2/", "/api//b", "/v2//b"},
		{"/€/", "", "/v2/", "/%E2%82%AC/b", "/v2/b"},
		{"/api", "", "/v2", "/api%3Fa", "/v2%3Fa"},
	} {
		c := chainOf(t, rewriting(test.prefix, test.exact, test.to).Match)
		r := httptest.NewRequest("GET", test.path, nil)
		if _, at := c.MatchHTTP(r); at != 0 {
			t.Errorf("%s takes route %d", test.path, at)
		}
		before := *r.URL
		got, err := rewriting(test.prefix, test.exact, test.to).Rewrite(r.URL)
		if err != nil || got.RequestURI() != test.want || *r.URL != before {
			t.Errorf("%s with %s%s to %s: %v, %v, want %s", test.path, test.prefix, test.exact, test.to, got, err, test.want)
		}
	}
}

// What is left of a path after its prefix must not lead out of what replaces it.
func TestNoRewriteLeadsOutOfItsPrefix(t *testing.T) {
	for _, path := range []string{"/api../b", "/api%2E%2E/b", "/api..", "/api.", "/api..;x/b", `/api..%5Cb`, "/api.%2E/b"} {
		u, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := rewriting("/api", "", "/v2/").Rewrite(u); err == nil {
			t.Errorf("%s becomes %s", path, got)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add("/api/a%2Fb", "/api/", "/v2/")
	f.Add("/api..%2fb", "/api", "/")
	f.Add("/%61pi/%252e%252e", "/api", "/x%20y")
	f.Fuzz(func(t *testing.T, path, prefix, to string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || prefix == "" || !strings.HasPrefix(u.Path, prefix) || u.Host != "" || u.Scheme != "" {
			t.Skip()
		}
		chain := httpChain(func(c *route.Chain) {
			c.Routes[0].Match.PathPrefix, c.Routes[0].PrefixRewrite = prefix, to
		})
		if chain, err = route.ForHTTP(chain, nil); err != nil {
			t.Skip()
		}
		got, err := chain.Routes[0].Rewrite(u)
		if err != nil {
			return
		}
		again, err := url.ParseRequestURI(got.EscapedPath())
		if err != nil || again.Path != got.Path || again.RawQuery != "" || !strings.HasPrefix(got.Path, "/") {
			t.Fatalf("%q becomes %q, which is read as %v, %v", path, got.EscapedPath(), again, err)
		}
		for _, segment := range strings.FieldsFunc(got.Path, func(c rune) bool { return c == '/' || c == '\\' }) {
			if segment == "." || segment == ".." {
				t.Fatalf("%q becomes %q", path, got.EscapedPath())
			}
		}
		if rest := u.Path[len(prefix):]; !strings.HasSuffix(got.Path, rest) {
			t.Fatalf("%q becomes %q, want the end %q", path, got.Path, rest)
		}
	})
}

// httpChain is a chain of one route to change, and the last one.
func httpChain(change func(*route.Chain)) *route.Chain {
	arms := func() []*route.Arm { return []*route.Arm{{Name: "web", Weight: 100, Target: "t"}} }
	c := &route.Chain{
		Service: "web", Datacenter: "dc1", Protocol: "http",
		Routes:  []*route.Route{{Name: "route 1", Arms: arms()}, {Name: "default", Arms: arms()}},
		Targets: map[string]*route.Target{"t": {ID: "t", Service: "web", Datacenter: "dc1"}},
	}
	change(c)
	return c
}

// Case T7
func TestPartsAreRefusedByProtocol(t *testing.T) {
	for name, test := range map[string]struct {
		change     func(*route.Chain)
		grpc, http string // what is refused; empty is nothing
	}{
		"nothing": {func(*route.Chain) {}, "", ""},
		"a rewrite": {func(c *route.Chain) {
			c.Routes[0].Match.PathPrefix, c.Routes[0].PrefixRewrite = "/a/", "/b/"
		}, `PrefixRewrite "/b/": the path of a call`, ""},
		"a rewrite of nothing": {func(c *route.Chain) { c.Routes[0].PrefixRewrite = "/b/" }, `PrefixRewrite "/b/"`, "without a PathPrefix or a PathExact"},
		"a rewrite out": {func(c *route.Chain) {
			c.Routes[0].Match.PathExact, c.Routes[0].PrefixRewrite = "/a", "/b/%2e%2e/c"
		}, "PrefixRewrite", `"/b/%2e%2e/c" is no path`},
		"a rewrite with a query": {func(c *route.Chain) {
			c.Routes[0].Match.PathExact, c.Routes[0].PrefixRewrite = "/a", "/b?c"
		}, "PrefixRewrite", `"/b?c" is no path`},
		"a rewrite of spaces": {func(c *route.Chain) {
			c.Routes[0].Match.PathExact, c.Routes[0].PrefixRewrite = "/a", "/b c"
		}, "PrefixRewrite", `"/b c" is no path`},
		"a query":  {func(c *route.Chain) { c.Routes[0].Match.Query = []route.QueryMatch{{Name: "a"}} }, "QueryParam", ""},
		"methods":  {func(c *route.Chain) { c.Routes[0].Match.Methods = []string{"GET"} }, "Methods GET", ""},
		"a host":   {func(c *route.Chain) { c.Routes[0].Match.Headers = []route.HeaderMatch{{Name: ":authority"}} }, ":authority", ""},
		"a status": {func(c *route.Chain) { c.Routes[0].Retry = route.NewRetry(1, false, nil, []uint32{500}) }, "RetryOnStatusCodes 500", ""},
		"a conflict": {func(c *route.Chain) { c.Routes[0].Retry = route.NewRetry(1, false, []string{"retriable-4xx"}, nil) },
			`RetryOn "retriable-4xx"`, ""},
		"a code": {func(c *route.Chain) { c.Routes[0].Retry = route.NewRetry(1, false, []string{"unavailable"}, nil) },
			"", `RetryOn "unavailable": HTTP has no such condition`},
		"a limit of Envoy": {func(c *route.Chain) { c.Routes[0].Retry = route.NewRetry(1, false, []string{"envoy-ratelimited"}, nil) },
			`RetryOn "envoy-ratelimited"`, `RetryOn "envoy-ratelimited"`},
		"a cookie": {func(c *route.Chain) {
			c.Routes[0].Arms[0].LoadBalancer = &route.LoadBalancer{Policy: "maglev", HashFrom: route.FromCookie, HashKey: "Sid"}
		}, `HashPolicies Field "cookie"`, ""},
		"a claim": {func(c *route.Chain) {
			c.Routes[0].Arms[0].Request = []route.Headers{{Set: map[string]string{"x-forwarded-for": "1.2.3.4"}}}
		}, "", `changes the header "x-forwarded-for"`},
		"a claim to remove": {func(c *route.Chain) {
			c.Routes[0].Arms[0].Response = []route.Headers{{Remove: []string{"x-real-ip"}}}
		}, "", `changes the header "x-real-ip"`},
		"what is the gateway's": {func(c *route.Chain) {
			c.Routes[0].Arms[0].Request = []route.Headers{{Set: map[string]string{"x-meshlite-subject": "root"}}}
		}, `"x-meshlite-subject"`, `"x-meshlite-subject"`},
		"a hop": {func(c *route.Chain) {
			c.Routes[0].Arms[0].Request = []route.Headers{{Set: map[string]string{"transfer-encoding": "chunked"}}}
		}, `"transfer-encoding"`, `"transfer-encoding"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := httpChain(test.change)
			var refused *route.RefusedError
			var parts []string
			if errors.As(c.Check(), &refused) {
				parts = refused.Parts
			}
			wantRefused(t, "gRPC", append(slices.Clone(parts), c.HTTPOnly()...), test.grpc)
			_, err := route.ForHTTP(c, nil)
			parts = nil
			if errors.As(err, &refused) {
				parts = refused.Parts
			}
			wantRefused(t, "HTTP", parts, test.http)
		})
	}
}

func wantRefused(t *testing.T, protocol string, parts []string, want string) {
	t.Helper()
	if want == "" && len(parts) > 0 || want != "" && (len(parts) != 1 || !strings.Contains(parts[0], want)) {
		t.Errorf("%s refuses %q, want %q", protocol, parts, want)
	}
}

// What a watcher of chains reports for gRPC is turned around for HTTP.
func TestARefusalOfGRPCIsNoneOfHTTP(t *testing.T) {
	good := httpChain(func(c *route.Chain) { c.Routes[0].Match.Methods = []string{"GET"} })
	if c, err := route.ForHTTP(nil, &route.RefusedError{Service: "web", Parts: good.HTTPOnly(), HTTP: good}); c != good || err != nil {
		t.Errorf("%v, %v", c, err)
	}
	var refused *route.RefusedError
	if c, err := route.ForHTTP(nil, &route.RefusedError{Service: "web", Parts: []string{"common", "of gRPC"}, Common: 1}); c != nil || !errors.As(err, &refused) || !slices.Equal(refused.Parts, []string{"common"}) {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := route.ForHTTP(nil, &route.RefusedError{Service: "web", Parts: []string{"anything"}}); c != nil || !errors.As(err, &refused) || len(refused.Parts) != 1 {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := route.ForHTTP(nil, nil); c != nil || err != nil {
		t.Errorf("plain discovery is %v, %v", c, err)
	}
	broken := errors.New("the directory cannot answer")
	if c, err := route.ForHTTP(nil, broken); c != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", c, err)
	}
}
