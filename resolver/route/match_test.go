package route_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// Case T1: First matching route wins, for each kind of match and its inversion; compared with
// Envoy's documented meaning.
func TestRoutesMatchAsEnvoyDocuments(t *testing.T) {
	const method = "/shop.Catalog/Get"
	key := func(values ...string) metadata { return metadata{"x-key": values} }
	header := func(h route.HeaderMatch) route.Match {
		h.Name = "x-key"
		return route.Match{Headers: []route.HeaderMatch{h}}
	}
	long := strings.Repeat("a", 8<<10)
	for _, test := range []struct {
		name     string
		match    route.Match
		method   string
		md       metadata
		want     bool
		mismatch string
	}{
		{"nothing", route.Match{}, method, nil, true, ""},
		{"nothing, a method without a slash", route.Match{PathPrefix: "/"}, "x", nil, true, ""},

		{"path exact", route.Match{PathExact: method}, method, nil, true, ""},
		{"path exact, longer", route.Match{PathExact: method}, method + "s", nil, false, `the path is not "/shop.Catalog/Get"`},
		{"path exact, shorter", route.Match{PathExact: method}, method[1:], nil, false, `the path is not "/shop.Catalog/Get"`},
		{"path exact, another case", route.Match{PathExact: method}, "/SHOP.Catalog/Get", nil, false, `the path is not "/shop.Catalog/Get"`},
		{"path exact, in any case", route.Match{PathExact: method, CaseInsensitive: true}, "/SHOP.catalog/gET", nil, true, ""},
		{"path prefix", route.Match{PathPrefix: "/shop."}, method, nil, true, ""},
		{"path prefix, all of it", route.Match{PathPrefix: method}, method, nil, true, ""},
		{"path prefix, of another", route.Match{PathPrefix: "/shop/"}, method, nil, false, `the path does not begin with "/shop/"`},
		{"path prefix, in any case", route.Match{PathPrefix: "/SHOP.", CaseInsensitive: true}, method, nil, true, ""},
		{"path prefix, only of ASCII", route.Match{PathPrefix: "/shop.\u212a", CaseInsensitive: true}, "/shop.K", nil, false, "the path does not begin with \"/shop.\u212a\" in any case"},
		{"path regex", route.Match{PathRegex: `/shop\.[A-Z]\w+/Get`}, method, nil, true, ""},
		{"path regex, the whole path", route.Match{PathRegex: `/shop`}, method, nil, false, `the path does not match "/shop"`},
		{"path regex, alternatives", route.Match{PathRegex: `/a|/shop.*`}, method, nil, true, ""},
		{"path regex, part of an alternative", route.Match{PathRegex: `/shop|.*X`}, method, nil, false, `the path does not match "/shop|.*X"`},
		{"path regex ignores the flag", route.Match{PathRegex: `/SHOP.*`, CaseInsensitive: true}, method, nil, false, `the path does not match "/SHOP.*"`},
		{"path regex, in any case", route.Match{PathRegex: `(?i)/SHOP.*`}, method, nil, true, ""},

		{"POST", route.Match{Methods: []string{"GET", "POST"}}, method, nil, true, ""},
		{"GET alone", route.Match{Methods: []string{"GET", "PUT"}}, method, nil, false, "the HTTP method is POST, not GET or PUT"},

		{"present", header(route.HeaderMatch{}), method, key(""), true, ""},
		{"present, several", header(route.HeaderMatch{}), method, key("a", "b"), true, ""},
		{"present, absent", header(route.HeaderMatch{}), method, nil, false, "x-key is absent"},
		{"not present, absent", header(route.HeaderMatch{Invert: true}), method, metadata{}, true, ""},
		{"not present, present", header(route.HeaderMatch{Invert: true}), method, key("secret"), false, "x-key is present"},

		{"exact", header(route.HeaderMatch{Exact: "a"}), method, key("a"), true, ""},
		{"exact, another", header(route.HeaderMatch{Exact: "a"}), method, key("secret"), false, `x-key is not "a"`},
		{"exact, absent", header(route.HeaderMatch{Exact: "a"}), method, nil, false, "x-key is absent"},
		{"exact, several are joined", header(route.HeaderMatch{Exact: "a,b"}), method, key("a", "b"), true, ""},
		{"exact, one of several", header(route.HeaderMatch{Exact: "a"}), method, key("a", "b"), false, `x-key is not "a"`},
		{"not exact", header(route.HeaderMatch{Exact: "a", Invert: true}), method, key("b"), true, ""},
		{"not exact, the same", header(route.HeaderMatch{Exact: "a", Invert: true}), method, key("a"), false, `x-key is "a"`},
		{"not exact, absent", header(route.HeaderMatch{Exact: "a", Invert: true}), method, nil, false, "x-key is absent"},
		{"exact, in any case", header(route.HeaderMatch{Exact: "aB", IgnoreCase: true}), method, key("Ab"), true, ""},

		{"prefix", header(route.HeaderMatch{Prefix: "ab"}), method, key("abc"), true, ""},
		{"prefix, shorter", header(route.HeaderMatch{Prefix: "ab"}), method, key("a"), false, `x-key does not begin with "ab"`},
		{"not prefix", header(route.HeaderMatch{Prefix: "ab", Invert: true}), method, key("cab"), true, ""},
		{"not prefix, absent", header(route.HeaderMatch{Prefix: "ab", Invert: true}), method, nil, false, "x-key is absent"},
		{"not prefix, the same", header(route.HeaderMatch{Prefix: "ab", Invert: true}), method, key("ab"), false, `x-key begins with "ab"`},

		{"suffix", header(route.HeaderMatch{Suffix: "bc"}), method, key("abc"), true, ""},
		{"suffix, shorter", header(route.HeaderMatch{Suffix: "bc"}), method, key("c"), false, `x-key does not end with "bc"`},
		{"not suffix", header(route.HeaderMatch{Suffix: "bc", Invert: true}), method, key("bca"), true, ""},
		{"not suffix, the same", header(route.HeaderMatch{Suffix: "bc", Invert: true}), method, key("bc"), false, `x-key ends with "bc"`},

		{"contains", header(route.HeaderMatch{Contains: "b"}), method, key("abc"), true, ""},
		{"contains, in any case", header(route.HeaderMatch{Contains: "Bc", IgnoreCase: true}), method, key("aBCd"), true, ""},
		{"contains, in any case, not", header(route.HeaderMatch{Contains: "Bc", IgnoreCase: true}), method, key("abd"), false, `x-key does not contain "Bc" in any case`},
		{"not contains", header(route.HeaderMatch{Contains: "b", Invert: true}), method, key("b"), false, `x-key contains "b"`},

		{"regex", header(route.HeaderMatch{Regex: "[0-9]{3}"}), method, key("123"), true, ""},
		{"regex, the whole value", header(route.HeaderMatch{Regex: "[0-9]{3}"}), method, key("1234"), false, `x-key does not match "[0-9]{3}"`},
		{"not regex", header(route.HeaderMatch{Regex: "[0-9]{3}", Invert: true}), method, key("1234"), true, ""},
		{"not regex, absent", header(route.HeaderMatch{Regex: "[0-9]{3}", Invert: true}), method, nil, false, "x-key is absent"},
		{"not regex, the same", header(route.HeaderMatch{Regex: "[0-9]{3}", Invert: true}), method, key("123"), false, `x-key matches "[0-9]{3}"`},

		{"a value as long as may be", header(route.HeaderMatch{Suffix: "a"}), method, key(long), true, ""},
		{"a longer value", header(route.HeaderMatch{Suffix: "a"}), method, key(long + "a"), false, "x-key has more than 8192 bytes"},
		{"a longer value, inverted", header(route.HeaderMatch{Suffix: "b", Invert: true}), method, key(long + "a"), false, "x-key has more than 8192 bytes"},
		{"several values that are longer together", header(route.HeaderMatch{Regex: "a.*"}), method, key(long, "a"), false, "x-key has more than 8192 bytes"},
		{"a large expression", header(route.HeaderMatch{Regex: "(?:a|[^b]*){300}"}), method, key(long[:580]), true, ""},
		{"a large expression and a longer value", header(route.HeaderMatch{Regex: "(?:a|[^b]*){300}"}), method, key(long), false, "x-key has more than 580 bytes"},
		{"a large expression and a longer value, inverted", header(route.HeaderMatch{Regex: "(?:a|[^b]*){300}", Invert: true}), method, key(long), false, "x-key has more than 580 bytes"},
		{"a longer value is present", header(route.HeaderMatch{}), method, key(long+"a", "b"), true, ""},
		{"a longer path", route.Match{PathRegex: ".*"}, "/" + long, nil, false, `the path does not match ".*"`},

		{"the path as a header", route.Match{Headers: []route.HeaderMatch{{Name: ":path", Suffix: "/Get"}}}, method, nil, true, ""},
		{"the method as a header", route.Match{Headers: []route.HeaderMatch{{Name: ":method", Exact: "GET"}}}, method, nil, false, `:method is not "GET"`},

		{"all of several", route.Match{PathPrefix: "/shop", Headers: []route.HeaderMatch{{Name: "x-key", Exact: "a"}, {Name: "x-b", Invert: true}}}, method, key("a"), true, ""},
		{"one of several", route.Match{PathPrefix: "/shop", Headers: []route.HeaderMatch{{Name: "x-key", Exact: "a"}, {Name: "x-b"}}}, method, key("a"), false, "x-b is absent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := chainOf(t, test.match)
			var md route.Metadata
			if test.md != nil {
				md = test.md
			}
			matched, at := c.Match(test.method, md)
			if (at == 0) != test.want || matched != c.Routes[at] {
				t.Errorf("%v at %d, want the first: %v", matched, at, test.want)
			}
			verdicts := c.Explain(test.method, md)
			if len(verdicts) != at+1 || verdicts[0] != (route.Verdict{Route: c.Routes[0], Matches: test.want, Reason: test.mismatch}) {
				t.Errorf("%+v, want the reason %q", verdicts, test.mismatch)
			}
			if last := verdicts[at]; !last.Matches || last.Route != matched {
				t.Errorf("the last verdict is %+v", last)
			}
		})
	}
}

// Case T1
func TestTheFirstOfSeveralRoutesWins(t *testing.T) {
	c := chainOf(t,
		route.Match{PathExact: "/a/B", Headers: []route.HeaderMatch{{Name: "x-debug", Exact: "1"}}},
		route.Match{PathPrefix: "/a/"},
		route.Match{PathExact: "/a/B"}, // in the shade
		route.Match{PathRegex: "/b/.*"},
	)
	for _, test := range []struct {
		method string
		md     route.Metadata
		want   int
	}{{"/a/B", metadata{"x-debug": {"1"}}, 0}, {"/a/B", nil, 1}, {"/a/C", nil, 1}, {"/b/C", nil, 3}, {"/c/D", metadata{"x-debug": {"1"}}, 4}} {
		if _, at := c.Match(test.method, test.md); at != test.want {
			t.Errorf("%s with %v: route %d, want %d", test.method, test.md, at, test.want)
		}
	}
}

func TestWhetherMetadataIsRead(t *testing.T) {
	for want, m := range map[bool]route.Match{
		false: {PathPrefix: "/a", Headers: []route.HeaderMatch{{Name: ":path", Prefix: "/"}}},
		true:  {Headers: []route.HeaderMatch{{Name: "a"}}},
	} {
		if got := chainOf(t, m).ReadsMetadata(); got != want {
			t.Errorf("%+v: %v", m, got)
		}
	}
}

// A gateway matches what gRPC has not: queries, hosts and methods.
func TestRequestsOfHTTPMatch(t *testing.T) {
	c := chainOf(t,
		route.Match{Methods: []string{"GET"}, Query: []route.QueryMatch{{Name: "page", Regex: "[0-9]+"}, {Name: "all"}}},
		route.Match{Headers: []route.HeaderMatch{{Name: ":authority", Prefix: "shop."}}},
		route.Match{PathExact: "/b", Headers: []route.HeaderMatch{{Name: "content-type", Prefix: "application/"}}},
		route.Match{Query: []route.QueryMatch{{Name: "a", Exact: "1"}}},
	)
	for _, test := range []struct {
		method, url, contentType string
		want                     int
		reason                   string // why the route before does not match
	}{
		{"GET", "http://x/?page=12&all", "", 0, ""},
		{"GET", "http://shop.example/?page=12", "", 1, "the parameter all is absent"},
		{"POST", "http://shop.example/?page=12&all=", "", 1, "the HTTP method is POST, not GET"},
		{"GET", "http://shop.example/?page=x&all", "", 1, `the parameter page does not match "[0-9]+"`},
		{"PUT", "http://x/b?a=1", "application/json", 2, `:authority does not begin with "shop."`},
		{"PUT", "http://x/c?a=1&a=2", "", 3, `the path is not "/b"`},
		{"PUT", "http://x/b?a=2", "", 4, `the parameter a is not "1"`},
	} {
		r := httptest.NewRequest(test.method, test.url, nil)
		if test.contentType != "" {
			r.Header.Set("Content-Type", test.contentType)
		}
		_, at := c.MatchHTTP(r)
		verdicts := c.ExplainHTTP(r)
		if at != test.want || len(verdicts) != at+1 || at > 0 && verdicts[at-1].Reason != test.reason {
			t.Errorf("%s %s: route %d, %+v, want %d because %q", test.method, test.url, at, verdicts, test.want, test.reason)
		}
	}
	if _, at := c.Match("/b", metadata{"content-type": {"application/grpc"}}); at != 2 {
		t.Errorf("a call of gRPC takes route %d", at)
	}
	if v := c.Explain("/c", nil); len(v) != 5 || v[0].Reason != "the HTTP method is POST, not GET" || v[3].Reason != "the parameter a is absent" {
		t.Errorf("%+v of a call of gRPC", v)
	}
	if parts := c.HTTPOnly(); len(parts) != 6 {
		t.Errorf("gRPC cannot mean %q", parts)
	}
}

// A chain that is refused takes no call, and many goroutines may find out at once.
func TestAChainThatIsNotChecked(t *testing.T) {
	bad := &route.Chain{Service: "catalog", Routes: []*route.Route{{Name: "a", Match: route.Match{PathRegex: "("}}}}
	good := chainOf(t)
	good = &route.Chain{Service: good.Service, Routes: good.Routes, Targets: good.Targets}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if r, at := bad.Match("/a/B", nil); r != nil || at != -1 || bad.Explain("/a/B", nil) != nil || bad.ReadsMetadata() {
				t.Error(r, at)
			}
			if r, at := good.Match("/a/B", nil); r == nil || at != 0 {
				t.Error(r, at)
			}
		})
	}
	wg.Wait()
}

// match20 is a chain of 20 routes, of which the last takes the call.
func match20(b *testing.B, m func(i int) route.Match) *route.Chain {
	var all []route.Match
	for i := range 19 {
		all = append(all, m(i))
	}
	return chainOf(b, all...)
}

// What a call costs with a chain of 20 routes of which none but the last matches.
func BenchmarkMatch(b *testing.B) {
	md := metadata{"x-user": {"alice"}, "x-request-id": {"1"}, "authorization": {"x"}}
	for name, m := range map[string]func(int) route.Match{
		"exact":  func(i int) route.Match { return route.Match{PathExact: fmt.Sprintf("/shop.Catalog/Method%02d", i)} },
		"prefix": func(i int) route.Match { return route.Match{PathPrefix: fmt.Sprintf("/shop.Service%02d/", i)} },
		"mixed":  mixed,
		"headers": func(i int) route.Match {
			return route.Match{Headers: []route.HeaderMatch{{Name: "x-user", Exact: fmt.Sprint("user", i)}}}
		},
	} {
		c := match20(b, m)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, at := c.Match("/shop.Catalog/GetProduct", md); at != 19 {
					b.Fatalf("route %d", at)
				}
			}
		})
	}
}

// What the worst expressions cost, with the longest values that they may match.
func BenchmarkLargestExpressions(b *testing.B) {
	for _, regex := range []string{`(?:a*){450}b`, `(?:.*a){300}b`, `.*(?:a?){500}c`} {
		c := chainOf(b, route.Match{Headers: []route.HeaderMatch{{Name: "x", Regex: regex}}})
		length := 8 << 10
		for long := true; long; length-- {
			v := c.Explain("/a", metadata{"x": {strings.Repeat("a", length)}})
			long = strings.Contains(v[0].Reason, "bytes")
		}
		md := metadata{"x": {strings.Repeat("a", length)}}
		b.Run(regex, func(b *testing.B) {
			for b.Loop() {
				c.Match("/a", md)
			}
		})
	}
}

// mixed are the matches of a usual router: paths, and here and there a header.
func mixed(i int) route.Match {
	switch i % 5 {
	case 0:
		return route.Match{PathExact: fmt.Sprintf("/shop.Catalog/Method%02d", i)}
	case 1:
		return route.Match{PathPrefix: fmt.Sprintf("/shop.Service%02d/", i), Methods: []string{"POST"}}
	case 2:
		return route.Match{PathPrefix: "/shop.Catalog/Get", Headers: []route.HeaderMatch{{Name: "x-canary", Exact: "1"}}}
	case 3:
		return route.Match{PathExact: "/shop.Catalog/GetProduct2", Headers: []route.HeaderMatch{{Name: "x-user"}}}
	default:
		return route.Match{PathPrefix: "/shop.Stock/"}
	}
}

// Matching allocates nothing.
func TestMatchingDoesNotAllocate(t *testing.T) {
	c := chainOf(t, route.Match{PathRegex: "/shop\\.[A-D]+/.*"}, route.Match{PathPrefix: "/SHOP", CaseInsensitive: true,
		Headers: []route.HeaderMatch{{Name: "x-user", Regex: "[a-z]+1", Invert: true}, {Name: "x-b", Contains: "C", IgnoreCase: true}, {Name: "x-none"}}})
	md := route.Metadata(metadata{"x-user": {"alice"}, "x-b": {"abc"}})
	if n := testing.AllocsPerRun(1000, func() {
		r, at := c.Match("/shop.Catalog/GetProduct", md)
		if at != 2 || r != c.Routes[2] || !c.ReadsMetadata() {
			t.Error(at)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
