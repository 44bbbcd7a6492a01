package edge_test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/gateway/edge"
)

// metadataOf is what a backend gets of a request.
func metadataOf(t testing.TB, config edge.Config, r *http.Request) (md metadata.MD) {
	t.Helper()
	e := newEdge(t, config)
	w := do(e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { md = e.Metadata(r) })), r)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return md
}

func show(md metadata.MD) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(md)) {
		all = append(all, fmt.Sprintf("%s=%q", key, md[key]))
	}
	return strings.Join(all, " ")
}

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// Case E14: Nothing from outside reaches a backend as metadata unless allowed by name, hop-by-hop headers and those that only the gateway sets not even then.
func TestNothingFromOutsideReachesABackend(t *testing.T) {
	hostile := func() *http.Request {
		r := request("GET", "/", "192.0.2.1:1",
			"Connection", "keep-alive, X-Nominated", "X-Nominated", "1", "Keep-Alive", "1", "Te", "trailers", "Transfer-Encoding", "chunked",
			"Upgrade", "websocket", "Proxy-Authorization", "1", "Proxy-Connection", "1", "Trailer", "X",
			"Grpc-Timeout", "1S", "Grpc-Previous-Rpc-Attempts", "7", "Grpc-Encoding", "gzip", "Grpc-Trace-Bin", "AAAA", "Grpc-Tags-Bin", "AAAA",
			"X-Meshlite-Subject", "root", "X-Meshlite-Cost", "0", "X-Meshlite-Priority", "high", "X-Meshlite-Explain", "8", "X-Meshlite-Explain-Bin", "AAAA",
			"X-Forwarded-For", "203.0.113.1", "X-Real-Ip", "203.0.113.1", "Forwarded", "for=203.0.113.1",
			"Cookie", "a=b", "Authorization", "Bearer alice", "Content-Type", "application/json", "User-Agent", "x", "Cache-Control", "no-cache", "Accept-Language", "de")
		r.Header[":authority"] = []string{"evil"}
		r.Header[":path"] = []string{"/evil"}
		r.Header["x-meshlite-subject"] = []string{"root"}
		r.Header["X_Meshlite_Subject"] = []string{"root"}
		return r
	}
	const who = `x-forwarded-for=["192.0.2.1"]`
	want(t, "by default", show(metadataOf(t, edge.Config{}, hostile())), who)
	want(t, "with a subject", show(metadataOf(t, edge.Config{Verifier: verifier{}}, hostile())), who+` x-meshlite-subject=["alice"]`)
	want(t, "allowed by name", show(metadataOf(t, edge.Config{Headers: []string{
		"Authorization", "X-Nominated", "accept-language", "ACCEPT-LANGUAGE", "cache-control", "grpc-previous-rpc-attempts", "X-Meshlite-Cost", "X-Meshlite-Explain", "Grpc-Tags-Bin", "x_meshlite_subject", "absent",
	}}, hostile())), `accept-language=["de"] authorization=["Bearer alice"] cache-control=["no-cache"] grpc-previous-rpc-attempts=["7"] grpc-tags-bin=["\x00\x00\x00"] `+who+` x-meshlite-cost=["0"] x-meshlite-explain=["8"]`)
}

// Values that gRPC cannot send do not make a call fail, and those of binary keys are decoded.
func TestValuesThatMetadataCannotCarry(t *testing.T) {
	r := request("GET", "/", "", "X-A", "zoë", "X-A", "plain", "X-B-Bin", base64.StdEncoding.EncodeToString([]byte("zoë!")), "X-B-Bin", "%%%")
	r.RemoteAddr = "@"
	want(t, "metadata", show(metadataOf(t, edge.Config{Headers: []string{"X-A", "X-B-Bin"}}, r)), `x-a=["plain"] x-b-bin=["zoë!"]`)
	subjects := map[string]bool{}
	for subject, text := range map[string]string{
		"alice@example.org": "alice@example.org", "zoë": "zo%C3%AB", "zo%C3%AB": "zo%25C3%25AB", "a b": "a b", "a\r\nb": "a%0D%0Ab", "a\x00": "a%00",
	} {
		md := metadataOf(t, edge.Config{Verifier: verifier{}}, request("GET", "/", "", "Authorization", "Bearer "+subject))
		if got := md.Get(caller.SubjectKey); len(got) != 1 || got[0] != text || subjects[text] {
			t.Errorf("%q: %q, want %q", subject, got, text)
		}
		subjects[text] = true
	}
}

// The address that backends get is the one that counts here, so that they need to trust the
// gateway only.
func TestBackendsGetTheAddressThatCounts(t *testing.T) {
	for _, test := range []struct{ peer, forwarded, want string }{
		{"192.0.2.1:1", "203.0.113.1", "192.0.2.1"},
		{"10.0.0.1:1", "203.0.113.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"10.0.0.1:1", "2001:db8::1", "2001:db8::1"},
	} {
		md := metadataOf(t, edge.Config{TrustedProxies: trusted}, request("GET", "/", test.peer, "X-Forwarded-For", test.forwarded))
		want(t, fmt.Sprint(test), strings.Join(md.Get("x-forwarded-for"), "|"), test.want)
	}
}

// What a caller can write of a call's metadata leaves room for ours in the 16 KiB that servers
// take: a call with more would be INTERNAL, for which its caller alone is responsible.
func TestMetadataIsBounded(t *testing.T) {
	sizeOf := func(md metadata.MD) (n int) {
		for key, values := range md {
			for _, value := range values {
				n += len(key) + len(value) + 32
			}
		}
		return n
	}
	config := edge.Config{Headers: []string{"X-Key"}}
	for _, key := range []int{1, 4000, 8000, 12000} {
		md := metadataOf(t, config, request("GET", "/", "", "Traceparent", parent, "Tracestate", strings.Repeat("a", 8000), "Baggage", strings.Repeat("b", 8000), "X-Key", strings.Repeat("c", key)))
		if n := sizeOf(md); n > 13<<10 || len(md["x-key"]) != 1 {
			t.Errorf("a key of %d bytes makes %d of metadata", key, n)
		}
	}
	e := newEdge(t, config)
	w := do(e.Handler(hello), request("GET", "/", "", "X-Key", strings.Repeat("c", 7000), "X-Key", strings.Repeat("d", 7000)))
	want(t, "too much", w.Code, http.StatusRequestHeaderFieldsTooLarge)
	problemOf(t, w)
}

// A trace is passed on if it is one.
func TestTracesArePassedOn(t *testing.T) {
	for name, test := range map[string]struct {
		headers []string
		want    string
	}{
		"whole":           {[]string{"Traceparent", parent, "Tracestate", "a=1", "Tracestate", "b=2", "Baggage", "k=v"}, `baggage=["k=v"] traceparent=["` + parent + `"] tracestate=["a=1,b=2"]`},
		"state alone":     {[]string{"Tracestate", "a=1"}, ""},
		"two parents":     {[]string{"Traceparent", parent, "Traceparent", parent}, ""},
		"short":           {[]string{"Traceparent", parent[:54]}, ""},
		"upper case":      {[]string{"Traceparent", strings.ToUpper(parent)}, ""},
		"longer":          {[]string{"Traceparent", parent + "-x"}, ""},
		"of later":        {[]string{"Traceparent", "01" + parent[2:] + "-more"}, `traceparent=["01` + parent[2:] + `-more"]`},
		"of none":         {[]string{"Traceparent", "ff" + parent[2:]}, ""},
		"long baggage":    {[]string{"Baggage", strings.Repeat("a", 8193)}, ""},
		"foreign baggage": {[]string{"Baggage", "k=ë"}, ""},
	} {
		r := request("GET", "/", "", test.headers...)
		r.RemoteAddr = "@"
		want(t, name, show(metadataOf(t, edge.Config{}, r)), test.want)
	}
}

// A plain HTTP backend gets our X-Forwarded-*, and outside's only through a trusted proxy.
//
// Case E14
func TestForwardedHeadersOfPlainHTTP(t *testing.T) {
	var got http.Header
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	claims := []string{
		"X-Forwarded-For", "203.0.113.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.example", "X-Forwarded-Prefix", "/evil",
		"X-Real-Ip", "203.0.113.1", "Forwarded", `for=203.0.113.1;Proto="https"`, "X-Meshlite-Subject", "root", "True-Client-Ip", "203.0.113.1", "X-Own", "1",
	}
	for name, test := range map[string]struct {
		peer string
		tls  bool
		by   string
		more []string
		want map[string]string
	}{
		"stranger": {"192.0.2.1:1", false, "", nil, map[string]string{
			"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "example.com", "X-Own": "1"}},
		"stranger over TLS, a subject": {"192.0.2.1:1", true, "", []string{"Authorization", "Bearer alice"}, map[string]string{
			"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com", "X-Meshlite-Subject": "alice", "X-Own": "1"}},
		"proxy": {"10.0.0.1:1", false, "", nil, map[string]string{
			"X-Forwarded-For": "203.0.113.1, 10.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com", "X-Own": "1"}},
		"proxy that writes Forwarded": {"10.0.0.1:1", false, "Forwarded", nil, map[string]string{
			"X-Forwarded-For": "203.0.113.1, 10.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com", "X-Own": "1"}},
		"proxy behind one that writes nothing": {"10.0.0.2:1", false, "Forwarded", []string{"X-Forwarded-Proto", "http", "Forwarded", "proto=http"}, map[string]string{
			"X-Forwarded-For": "unknown, 203.0.113.1, 10.0.0.2", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com", "X-Own": "1"}},
		"proxy with junk": {"10.0.0.1:1", false, "", []string{"X-Forwarded-Proto", "gopher", "X-Forwarded-Host", "two.example"}, map[string]string{
			"X-Forwarded-For": "203.0.113.1, 10.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "example.com", "X-Own": "1"}},
	} {
		e := newEdge(t, edge.Config{TrustedProxies: trusted, Verifier: verifier{}, ForwardedBy: test.by})
		proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); e.Forward(r.In, r.Out.Header) }}
		r := request("GET", "/", test.peer, append(test.more, claims...)...)
		r.Header["X_forwarded_for"] = []string{"203.0.113.1"}
		r.Header["X_Meshlite_Subject"] = []string{"root"}
		if test.tls {
			r.TLS = &tls.ConnectionState{}
		}
		do(e.Handler(proxy), r)
		for _, header := range []string{"Accept-Encoding", "User-Agent", "Authorization"} {
			got.Del(header)
		}
		all := map[string]string{}
		for header, values := range got {
			all[header] = strings.Join(values, "|")
		}
		if !maps.Equal(all, test.want) {
			t.Errorf("%s: %v, want %v", name, all, test.want)
		}
	}
	backend.CloseClientConnections()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
