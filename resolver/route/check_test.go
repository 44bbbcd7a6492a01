package route_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// Case T12
func TestExpressionsAreChecked(t *testing.T) {
	for name, m := range map[string]route.Match{
		"the path has":                       {PathRegex: "(?:abcdefgh){1000}"},
		`the header "x" has`:                 {Headers: []route.HeaderMatch{{Name: "x", Regex: "(?:abcdefgh){1000}"}}},
		`the parameter "x" of the query has`: {Query: []route.QueryMatch{{Name: "x", Regex: "(?:abcdefgh){1000}"}}},
	} {
		c := chainOf(t)
		bad := &route.Chain{Service: "catalog", Targets: c.Targets, Routes: []*route.Route{{Name: "route 1", Match: m, Arms: c.Routes[0].Arms}, {Name: "default", Arms: c.Routes[0].Arms}}}
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), "route 1: "+name+` "(?:abcdefgh){1000}", which is an expression of`) {
			t.Errorf("%v, want that %s a large expression", err, name)
		}
	}
}

// Each fault is refused by name, all of them at once.
func TestChainsAreChecked(t *testing.T) {
	many := func(n int) (all []route.HeaderMatch) {
		for range n {
			all = append(all, route.HeaderMatch{Name: "a"})
		}
		return all
	}
	for name, test := range map[string]struct {
		change func(*route.Chain)
		want   string // of a part, "" for none
	}{
		"as it is":               {func(*route.Chain) {}, ""},
		"no routes":              {func(c *route.Chain) { c.Routes = nil }, "the chain has no route"},
		"null route":             {func(c *route.Chain) { c.Routes[0] = nil }, "route 1 is null"},
		"same name":              {func(c *route.Chain) { c.Routes[1].Name = "route 1" }, `route 2 has the name "route 1"`},
		"no catch-all":           {func(c *route.Chain) { c.Routes[1].Match.PathPrefix = "/a" }, "route 2 is the last one and does not match every call"},
		"catch-all of the slash": {func(c *route.Chain) { c.Routes[1].Match.PathPrefix = "/" }, ""},
		"1,000 routes":           {func(c *route.Chain) { c.Routes = chainOf(t, make([]route.Match, 999)...).Routes }, ""},
		"1,001 routes": {func(c *route.Chain) {
			c.Routes = append(chainOf(t, make([]route.Match, 999)...).Routes, &route.Route{Name: "more", Arms: c.Routes[0].Arms})
		}, "1001 routes: write 1000 at most"},
		"1,001 targets": {func(c *route.Chain) {
			for i := range 1000 {
				id := fmt.Sprint(i)
				c.Targets[id] = &route.Target{ID: id, Service: "a", Datacenter: "dc1"}
			}
		}, "1001 targets: write 1000 at most"},
		"10,001 arms": {func(c *route.Chain) {
			for i := range 10_000 {
				c.Routes[0].Arms = append(c.Routes[0].Arms, &route.Arm{Name: fmt.Sprint(i), Target: "t"})
			}
		}, "10002 arms: write 10000 at most"},
		"no arms":                    {func(c *route.Chain) { c.Routes[0].Arms = nil }, "route 1 has no arm"},
		"null arm":                   {func(c *route.Chain) { c.Routes[0].Arms[0] = nil }, "arm 1 is null"},
		"arm without a name":         {func(c *route.Chain) { c.Routes[0].Arms[0].Name = "" }, `arm 1 has the name ""`},
		"weight below 0":             {func(c *route.Chain) { c.Routes[0].Arms[0].Weight = -1 }, "the weight -1"},
		"weights sum to less":        {func(c *route.Chain) { c.Routes[0].Arms[0].Weight = 99 }, "sum to 99: write some that sum to 100"},
		"weight rounded":             {func(c *route.Chain) { c.Routes[0].Arms[0].Weight = 99.995 }, ""},
		"unknown target":             {func(c *route.Chain) { c.Routes[0].Arms[0].Target = "u" }, `goes to the target "u"`},
		"unknown failover":           {func(c *route.Chain) { c.Routes[0].Arms[0].Failover = []string{"u"} }, `fails over to the target "u"`},
		"negative timeout":           {func(c *route.Chain) { c.Routes[0].Timeout = -time.Second }, "the timeout is -1s"},
		"negative timeout of an arm": {func(c *route.Chain) { c.Routes[0].Arms[0].Timeout = -1 }, "the timeout is -1ns"},
		"null target":                {func(c *route.Chain) { c.Targets["u"] = nil }, `the target "u" is null`},
		"another ID":                 {func(c *route.Chain) { c.Targets["t"].ID = "u" }, `the target "t" is null, or has another ID`},
		"no datacenter":              {func(c *route.Chain) { c.Targets["t"].Datacenter = "" }, `the datacenter ""`},
		"connect timeout":            {func(c *route.Chain) { c.Targets["t"].ConnectTimeout = -1 }, "-1ns to connect"},
		"two paths":                  {func(c *route.Chain) { c.Routes[0].Match = route.Match{PathExact: "/a", PathRegex: "/b"} }, `has "/a" and "/b": write one`},
		"two conditions": {func(c *route.Chain) {
			c.Routes[0].Match.Headers = []route.HeaderMatch{{Name: "a", Exact: "b", Suffix: "c"}}
		}, `"b" and "c": write one`},
		"a long condition":      {func(c *route.Chain) { c.Routes[0].Match.PathPrefix = strings.Repeat("/", 8193) }, "8193 bytes: write 8192 at most"},
		"64 headers":            {func(c *route.Chain) { c.Routes[0].Match.Headers = many(64) }, ""},
		"65 headers":            {func(c *route.Chain) { c.Routes[0].Match.Headers = many(65) }, "65 headers and parameters: write 64 at most"},
		"header of no name":     {func(c *route.Chain) { c.Routes[0].Match.Headers = []route.HeaderMatch{{}} }, `"" has 0 letters`},
		"header in upper case":  {func(c *route.Chain) { c.Routes[0].Match.Headers = []route.HeaderMatch{{Name: "A"}} }, `"A" has 'A'`},
		"pseudo header":         {func(c *route.Chain) { c.Routes[0].Match.Headers = []route.HeaderMatch{{Name: ":scheme"}} }, `":scheme" has ':'`},
		"binary header":         {func(c *route.Chain) { c.Routes[0].Match.Headers = []route.HeaderMatch{{Name: "a-bin", Exact: "b"}} }, `"a-bin" is binary`},
		"binary header present": {func(c *route.Chain) { c.Routes[0].Match.Headers = []route.HeaderMatch{{Name: "a-bin"}} }, ""},
		"parameter of no name":  {func(c *route.Chain) { c.Routes[0].Match.Query = []route.QueryMatch{{}} }, "has no name"},
		"retries":               {func(c *route.Chain) { c.Routes[0].Retry = &route.Retry{Attempts: 101} }, "101 retries: write 100 at most"},
		"a code":                {func(c *route.Chain) { c.Routes[0].Retry = &route.Retry{Codes: []string{"OK"}} }, `retries "OK"`},
		"all codes": {func(c *route.Chain) {
			c.Routes[0].Retry = &route.Retry{Attempts: 3, Codes: []string{"UNAVAILABLE", "CANCELLED"}}
		}, ""},
		"a policy": {func(c *route.Chain) { c.Routes[0].Arms[0].LoadBalancer = &route.LoadBalancer{Policy: "best"} }, `policy "best": write one of least_request, maglev, random, ring_hash, round_robin`},
		"one choice": {func(c *route.Chain) {
			c.Routes[0].Arms[0].LoadBalancer = &route.LoadBalancer{Policy: "least_request", ChoiceCount: 1}
		}, "1 choices: write 2 to 100"},
		"a huge ring": {func(c *route.Chain) {
			c.Routes[0].Arms[0].LoadBalancer = &route.LoadBalancer{Policy: "ring_hash", MinimumRingSize: 1 << 40}
		}, "write 8388608 at most"},
		"a ring inside out": {func(c *route.Chain) {
			c.Routes[0].Arms[0].LoadBalancer = &route.LoadBalancer{Policy: "ring_hash", MinimumRingSize: 9, MaximumRingSize: 8}
		}, "at least 9 and at most 8"},
		"hash of a pseudo header": {func(c *route.Chain) {
			c.Routes[0].Arms[0].LoadBalancer = &route.LoadBalancer{Policy: "maglev", HashKey: ":path"}
		}, `hashes the header ":path"`},
		"sticky":             {func(c *route.Chain) { c.Sticky = "x-user" }, ""},
		"sticky by anything": {func(c *route.Chain) { c.Sticky = "X User" }, `sticky by "X User" has 'X'`},
		"header modifier": {func(c *route.Chain) {
			c.Routes[0].Arms[0].Response = []route.Headers{{Remove: []string{"grpc-status"}}}
		}, `removes the header "grpc-status"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := chainOf(t, route.Match{PathPrefix: "/a"})
			c = &route.Chain{Service: "catalog", Index: 3, Datacenter: c.Datacenter, Routes: c.Routes, Targets: c.Targets}
			test.change(c)
			err := c.Check()
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *route.RefusedError
			if !errors.As(err, &refused) || refused.Service != "catalog" || refused.Index != 3 || !strings.Contains(strings.Join(refused.Parts, "\n"), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	c := &route.Chain{Service: "catalog", Routes: []*route.Route{{Name: "a", Match: route.Match{PathRegex: "("}}, {Name: "a"}}}
	var refused *route.RefusedError
	if !errors.As(c.Check(), &refused) || len(refused.Parts) != 4 || !strings.Contains(refused.Error(), `the discovery chain of "catalog"`) {
		t.Errorf("%v, want all 4 parts", c.Check())
	}
}

// Case T10
func TestHeaderModifiersAreChecked(t *testing.T) {
	for key, want := range map[string]string{
		"x-a": "", "a.b_c-1": "", "authorization": "",
		"":                       "0 letters",
		"X-A":                    "has 'X'",
		"a b":                    "has ' '",
		"a\r\nb":                 `has '\r'`,
		"é":                      "has 'é'",
		":path":                  "the transport keeps",
		":authority":             "the transport keeps",
		"host":                   "the transport keeps",
		"grpc-timeout":           "the transport keeps",
		"grpc-status":            "the transport keeps",
		"grpc-anything":          "the transport keeps",
		"te":                     "the transport keeps",
		"content-type":           "the transport keeps",
		"user-agent":             "the transport keeps",
		"connection":             "the transport keeps",
		"x-meshlite-subject":     "trust",
		"meshlite-unhandled":     "trust",
		strings.Repeat("a", 257): "257 letters: write 1 to 256",
	} {
		for name, h := range map[string]route.Headers{
			"add": {Add: map[string]string{key: "v"}}, "set": {Set: map[string]string{key: "v"}}, "remove": {Remove: []string{key}},
		} {
			if err := h.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s %q: %v, want %q", name, key, err, want)
			}
		}
	}
	for value, want := range map[string]string{
		"": "", "a ~b": "", "a\nb": "printable", "\x7f": "printable", "é": "printable",
		strings.Repeat("v", 4<<10): "", strings.Repeat("v", 4<<10+1): "4097 bytes: write 4096 at most",
	} {
		h := route.Headers{Add: map[string]string{"a": value}}
		if err := h.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.10q: %v, want %q", value, err, want)
		}
	}
	if err := (&route.Headers{Set: map[string]string{"a-bin": "v"}}).Check(); err == nil {
		t.Error("a binary value is set")
	}
	if err := (&route.Headers{Remove: []string{"a-bin"}}).Check(); err != nil {
		t.Error(err)
	}
	many := route.Headers{Remove: make([]string, 65)}
	if err := many.Check(); err == nil || !strings.Contains(err.Error(), "65 changes") {
		t.Error(err)
	}
}

// Case T10
func TestHeaderModifiersActInOrder(t *testing.T) {
	shared := []string{"1"}
	md := map[string][]string{"x-gone": {"1"}, "x-set": {"1", "2"}, "x-add": append(shared, "2")[:1], "x-both": {"1"}, "x-kept": {"1"}, "x-empty": {"1"}}
	before := md["x-add"]
	h := route.Headers{
		Remove: []string{"x-gone", "x-both", "x-none"},
		Set:    map[string]string{"x-set": "s", "x-both": "s", "x-empty": "", "x-new": "s"},
		Add:    map[string]string{"x-add": "a", "x-both": "a", "x-empty": "", "x-new": "a"},
	}
	h.Apply(md)
	want := map[string][]string{"x-set": {"s"}, "x-add": {"1", "a"}, "x-both": {"s", "a"}, "x-kept": {"1"}, "x-empty": {"1"}, "x-new": {"s", "a"}}
	if !reflect.DeepEqual(md, want) {
		t.Errorf("%v, want %v", md, want)
	}
	if before[:2][1] != "2" {
		t.Error("the values of another are written over")
	}
	(&route.Headers{}).Apply(nil)
}
