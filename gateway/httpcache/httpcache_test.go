package httpcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/gateway/httpcache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site answers requests as a transport.
type site struct {
	answer   func(w http.ResponseWriter, r *http.Request)
	requests atomic.Int64
	err      error
}

func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	s.requests.Add(1)
	if s.err != nil {
		return nil, s.err
	}
	w := httptest.NewRecorder()
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	s.answer(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

// newCache is a cache in front of s.
func newCache(t *testing.T, config httpcache.Config, s *site) (*httpcache.Cache, http.RoundTripper) {
	t.Helper()
	c, err := httpcache.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, c.Transport(s)
}

// get sends a request. headers are "Name: value".
func get(t *testing.T, transport http.RoundTripper, method, url string, headers ...string) (response *http.Response, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err = transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

func Example() {
	site := &site{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, "fudge")
	}}
	cache, err := httpcache.New(httpcache.Config{})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	client := &http.Client{Transport: cache.Transport(site)}
	for range 3 {
		response, err := client.Get("http://web/sweets")
		if err != nil {
			panic(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		fmt.Printf("%s %s\n", body, response.Header.Get("Cache-Status"))
	}
	fmt.Println("requests to the site:", site.requests.Load())
	// Output:
	// fudge meshlite; fwd=uri-miss; stored; ttl=60
	// fudge meshlite; hit; ttl=60
	// fudge meshlite; hit; ttl=60
	// requests to the site: 1
}

// step is one request to a cache in front of a site that answers with status and header.
type step struct {
	after   time.Duration
	method  string   // GET
	url     string   // http://web/
	request []string // headers
	status  int      // of the site; 200
	answer  []string // headers of the site; it gives 304 to its own ETag or Last-Modified
	fails   bool     // the site cannot be reached

	want   string // "hit", "stale", "validated", "miss", "pass", "504"
	code   int    // 200
	header []string
}

// result is what a request was to the cache, by its counters.
func result(before, after httpcache.Stats) string {
	for name, n := range map[string]uint64{
		"hit": after.Hits - before.Hits, "stale": after.Stale - before.Stale, "validated": after.Validated - before.Validated,
		"miss": after.Misses - before.Misses, "pass": after.Passed - before.Passed,
	} {
		if n > 0 {
			return name
		}
	}
	return "504"
}

func cc(text string) []string { return []string{"Cache-Control: " + text} }

// The rules of RFC 9111, of RFC 5861 and of conditions in RFC 9110, by section.
func TestByTheSectionsOfTheRFC(t *testing.T) {
	const tagged, dated = `ETag: "1"`, "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT"
	for name, steps := range map[string][]step{
		"3 no-store of the answer":             {{answer: cc("no-store, max-age=60"), want: "miss"}, {want: "pass"}},
		"3 private":                            {{answer: cc("private, max-age=60"), want: "miss"}, {want: "pass"}},
		"3 private with a field":               {{answer: cc(`private="x", max-age=60`), want: "miss"}, {want: "pass"}},
		"3 no-store of the request":            {{request: cc("no-store"), answer: cc("max-age=60"), want: "miss"}, {answer: cc("max-age=60"), want: "miss"}, {request: cc("no-store"), want: "hit"}},
		"3 a status that is not understood":    {{status: 418, answer: cc("max-age=60"), want: "miss", code: 418}, {want: "pass"}},
		"3 a server error":                     {{status: 503, answer: cc("max-age=60"), want: "miss", code: 503}, {want: "miss"}},
		"3 not found with freshness":           {{status: 404, answer: cc("max-age=60"), want: "miss", code: 404}, {want: "hit", code: 404}},
		"3 a redirect with freshness":          {{status: 302, answer: []string{"Cache-Control: max-age=60", "Location: /x"}, want: "miss", code: 302}, {want: "hit", code: 302, header: []string{"Location: /x"}}},
		"3 POST is not stored":                 {{method: "POST", answer: cc("max-age=60"), want: "504"}, {answer: cc("max-age=60"), want: "miss"}},
		"3 nothing says that it may be stored": {{answer: []string{tagged}, want: "miss"}, {answer: []string{tagged}, want: "pass"}},
		"3 a cookie is set":                    {{answer: []string{"Cache-Control: max-age=60", "Set-Cookie: a=b"}, want: "miss"}, {want: "pass"}},
		"3.1 headers of one hop":               {{answer: []string{"Cache-Control: max-age=60", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: 1", "Age: 3", "X-End: 1"}, want: "miss"}, {want: "hit", header: []string{"X-Hop: ", "Keep-Alive: ", "Age: 3", "X-End: 1"}}},
		"3.4 a part":                           {{request: []string{"Range: bytes=0-1"}, status: 206, answer: []string{"Cache-Control: max-age=60", "Content-Range: bytes 0-1/5"}, want: "pass", code: 206}, {answer: cc("max-age=60"), want: "miss"}, {request: []string{"Range: bytes=0-1"}, status: 206, want: "pass", code: 206}},
		"3.5 Authorization":                    {{request: []string{"Authorization: x"}, answer: cc("max-age=60"), want: "miss"}, {request: []string{"Authorization: x"}, answer: cc("max-age=60"), want: "miss"}},
		"3.5 Authorization and public":         {{request: []string{"Authorization: x"}, answer: cc("public, max-age=60"), want: "miss"}, {request: []string{"Authorization: y"}, want: "hit"}},
		"3.5 Authorization and s-maxage":       {{request: []string{"Authorization: x"}, answer: cc("s-maxage=60"), want: "miss"}, {want: "hit"}},
		"3.5 Authorization, must-revalidate":   {{request: []string{"Authorization: x"}, answer: cc("max-age=60, must-revalidate"), want: "miss"}, {want: "hit"}},
		"3.5 Authorization, proxy-revalidate":  {{request: []string{"Authorization: x"}, answer: cc("max-age=60, proxy-revalidate"), want: "miss"}, {want: "miss"}},
		"3.5 the condition of an identity":     {{request: []string{"Authorization: x", `If-None-Match: "1"`}, answer: []string{"Cache-Control: max-age=60", tagged}, want: "miss", code: 304}, {request: []string{"Cache-Control: no-store", `If-None-Match: "1"`}, answer: []string{tagged}, want: "miss", code: 304}, {answer: cc("max-age=60"), want: "miss"}},
		"3.5 an identity of the gateway":       {{request: []string{"X-Meshlite-Subject: alice"}, answer: cc("max-age=60"), want: "miss"}, {request: []string{"X-Meshlite-Subject: bob"}, want: "miss"}},
		"4 the host and the query":             {{answer: cc("max-age=60"), want: "miss"}, {url: "http://web/?a", answer: cc("max-age=60"), want: "miss"}, {url: "http://shop/", answer: cc("max-age=60"), want: "miss"}, {url: "http://WEB/", want: "miss"}, {want: "hit"}},
		"4 the scheme of clients":              {{answer: cc("max-age=60"), want: "miss"}, {request: []string{"X-Forwarded-Proto: https"}, want: "miss"}},
		"4 HEAD from GET":                      {{method: "HEAD", answer: cc("max-age=60"), want: "pass"}, {answer: cc("max-age=60"), want: "miss"}, {method: "HEAD", want: "hit", header: []string{"Content-Length: 4"}}},
		"4.1 Vary": {
			{request: []string{"Accept: a"}, answer: []string{"Cache-Control: max-age=60", "Vary: accept"}, want: "miss"},
			{request: []string{"Accept: b"}, answer: []string{"Cache-Control: max-age=60", "Vary: accept"}, want: "miss"},
			{answer: []string{"Cache-Control: max-age=60", "Vary: accept"}, want: "miss"},
			{request: []string{"Accept: a"}, want: "hit"}, {request: []string{"Accept: b"}, want: "hit"}, {want: "hit"},
		},
		"4.1 Vary, the same in other words": {
			{request: []string{"Accept: a , b"}, answer: []string{"Cache-Control: max-age=60", "Vary: Accept, X-Other", "Vary: accept"}, want: "miss"},
			{request: []string{"Accept: a", "Accept: b"}, want: "hit"}, {request: []string{"Accept: a,b", "X-Other: "}, want: "miss"},
		},
		"4.1 Vary *":                        {{answer: []string{"Cache-Control: max-age=60", "Vary: a, *"}, want: "miss"}, {want: "pass"}},
		"4.2.1 s-maxage before max-age":     {{answer: cc("max-age=1, s-maxage=60"), want: "miss"}, {after: 59 * time.Second, want: "hit"}, {after: time.Second, want: "miss"}},
		"4.2.1 max-age before Expires":      {{answer: []string{"Cache-Control: max-age=60", "Expires: Thu, 01 Jan 1970 00:00:00 GMT"}, want: "miss"}, {want: "hit"}},
		"4.2.1 Expires":                     {{answer: []string{"Expires: Sat, 01 Jan 2000 00:01:00 GMT"}, want: "miss"}, {after: 59 * time.Second, want: "hit"}, {after: time.Second, want: "miss"}},
		"4.2.1 the shorter of two max-age":  {{answer: cc("max-age=60, max-age=1"), want: "miss"}, {after: 2 * time.Second, want: "miss"}},
		"4.2.1 max-age that is junk":        {{answer: cc("max-age=1.5, stale-if-error=1"), want: "miss"}, {want: "miss"}},
		"4.2.2 no heuristic freshness":      {{answer: []string{dated, "Cache-Control: public"}, want: "miss"}, {answer: []string{dated, "Cache-Control: public"}, want: "validated"}},
		"4.2.3 the age of another cache":    {{answer: []string{"Cache-Control: max-age=60", "Age: 50"}, want: "miss", header: []string{"Age: 50"}}, {after: 9 * time.Second, want: "hit", header: []string{"Age: 59"}}, {after: time.Second, want: "miss"}},
		"4.2.3 an old Date":                 {{answer: []string{"Cache-Control: max-age=60", "Date: Fri, 31 Dec 1999 23:59:10 GMT"}, want: "miss"}, {after: 9 * time.Second, want: "hit", header: []string{"Age: 59"}}, {after: time.Second, want: "miss"}},
		"4.2.4 stale is not used by itself": {{answer: cc("max-age=1"), want: "miss"}, {after: time.Second, status: 500, want: "miss", code: 500}},
		"4.3.1 validation by ETag":          {{answer: []string{"Cache-Control: max-age=1", tagged}, want: "miss"}, {after: 2 * time.Second, answer: []string{"Cache-Control: max-age=5", tagged, "X-New: 1"}, want: "validated", header: []string{"Age: 0", "X-New: 1", "Content-Length: 4"}}, {after: 4 * time.Second, want: "hit"}},
		"4.3.1 validation by date":          {{answer: []string{"Cache-Control: max-age=1", dated}, want: "miss"}, {after: 2 * time.Second, answer: []string{"Cache-Control: max-age=1", dated}, want: "validated"}},
		"4.3.1 without a validator":         {{answer: cc("max-age=1"), want: "miss"}, {after: 2 * time.Second, want: "miss"}},
		"4.3.2 If-None-Match":               {{answer: []string{"Cache-Control: max-age=60", tagged}, want: "miss"}, {request: []string{`If-None-Match: "0", W/"1"`}, want: "hit", code: 304, header: []string{tagged, "Content-Length: ", "Cache-Control: max-age=60"}}, {request: []string{`If-None-Match: "2"`}, want: "hit"}, {request: []string{"If-None-Match: *"}, want: "hit", code: 304}, {request: []string{"If-None-Match: 1"}, want: "hit"}},
		"4.3.2 If-Modified-Since":           {{answer: []string{"Cache-Control: max-age=60", dated}, want: "miss"}, {request: []string{"If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"}, want: "hit", code: 304}, {request: []string{"If-Modified-Since: Fri, 31 Dec 1999 00:00:00 GMT"}, want: "hit"}, {request: []string{"If-Modified-Since: junk"}, want: "hit"}},
		"4.3.2 If-None-Match counts alone":  {{answer: []string{"Cache-Control: max-age=60", tagged, dated}, want: "miss"}, {request: []string{`If-None-Match: "2"`, "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"}, want: "hit"}},
		"4.3.2 conditions of a miss":        {{request: []string{`If-None-Match: "1"`}, answer: []string{"Cache-Control: max-age=60", tagged}, want: "miss", code: 304}, {want: "hit"}},
		"4.3.3 an error to a validation":    {{answer: []string{"Cache-Control: max-age=1", tagged}, want: "miss"}, {after: 2 * time.Second, status: 500, want: "miss", code: 500}},
		"4.3.4 304 of another answer":       {{answer: []string{"Cache-Control: max-age=1", tagged}, want: "miss"}, {after: 2 * time.Second, status: 304, answer: []string{`ETag: "2"`}, want: "miss", code: 304}},
		"4.4 an unsafe method":              {{answer: cc("max-age=60"), want: "miss"}, {method: "PUT", status: 404, want: "504", code: 404}, {want: "hit"}, {method: "OPTIONS", want: "504"}, {want: "hit"}, {method: "DELETE", want: "504"}, {want: "miss"}},
		"4.4 Location of an unsafe method":  {{url: "http://web/new", answer: cc("max-age=60"), want: "miss"}, {url: "http://web/old", answer: cc("max-age=60"), want: "miss"}, {method: "POST", status: 201, answer: []string{"Location: /new", "Content-Location: http://other/old"}, want: "504", code: 201}, {url: "http://web/new", want: "miss"}, {url: "http://web/old", want: "hit"}},
		"5.2.1.7 only-if-cached":            {{request: cc("only-if-cached"), want: "504", code: 504}, {answer: cc("max-age=60"), want: "miss"}, {request: cc("only-if-cached"), want: "hit"}},
		"5.2.1 of strangers is not obeyed":  {{answer: cc("max-age=60"), want: "miss"}, {after: 2 * time.Second, request: cc("no-cache, max-age=1, min-fresh=100"), want: "hit"}, {request: []string{"Pragma: no-cache"}, want: "hit"}},
		"5.2.1.1 max-age of the trusted":    {{answer: cc("max-age=60"), want: "miss"}, {after: 2 * time.Second, request: []string{"Trusted: 1", "Cache-Control: max-age=2"}, want: "hit"}, {request: []string{"Trusted: 1", "Cache-Control: max-age=1"}, want: "miss"}},
		"5.2.1.3 min-fresh of the trusted":  {{answer: cc("max-age=60"), want: "miss"}, {request: []string{"Trusted: 1", "Cache-Control: min-fresh=60"}, want: "hit"}, {request: []string{"Trusted: 1", "Cache-Control: min-fresh=61"}, want: "miss"}},
		"5.2.1.4 no-cache of the trusted":   {{answer: []string{"Cache-Control: max-age=60", tagged}, want: "miss"}, {request: []string{"Trusted: 1", "Cache-Control: no-cache"}, answer: []string{"Cache-Control: max-age=60", tagged}, want: "validated"}, {request: []string{"Trusted: 1", "Pragma: no-cache"}, answer: []string{"Cache-Control: max-age=60", tagged}, want: "validated"}},
		"5.2.2.2 must-revalidate":           {{answer: cc("max-age=1, must-revalidate, stale-if-error=60, stale-while-revalidate=60"), want: "miss"}, {after: 2 * time.Second, status: 503, want: "miss", code: 503}},
		"5.2.2.4 no-cache":                  {{answer: []string{"Cache-Control: no-cache, max-age=60", tagged}, want: "miss"}, {answer: []string{"Cache-Control: no-cache", tagged}, want: "validated"}},
		"5.2.2.4 no-cache, no validator":    {{answer: cc("no-cache, max-age=60"), want: "miss"}, {answer: cc("no-cache"), want: "miss"}},
		"5.3 an invalid Expires":            {{answer: []string{"Expires: 0", tagged}, want: "miss"}, {answer: []string{"Expires: 0", tagged}, want: "validated"}},
		"5861 3 stale-while-revalidate":     {{answer: cc("max-age=1, stale-while-revalidate=10"), want: "miss"}, {after: 10 * time.Second, answer: cc("max-age=60"), want: "stale", header: []string{"Age: 10"}}, {after: time.Nanosecond, want: "hit"}},
		"5861 3 too stale":                  {{answer: cc("max-age=1, stale-while-revalidate=10"), want: "miss"}, {after: 11 * time.Second, want: "miss"}},
		"5861 4 stale-if-error":             {{answer: cc("max-age=1, stale-if-error=10"), want: "miss"}, {after: 5 * time.Second, status: 503, want: "stale"}, {after: 2 * time.Second, fails: true, want: "stale"}, {after: 5 * time.Second, status: 503, want: "miss", code: 503}},
		"5861 4 not instead of not found":   {{answer: cc("max-age=1, stale-if-error=10"), want: "miss"}, {after: 5 * time.Second, status: 404, want: "miss", code: 404}},
		"5861 with s-maxage":                {{answer: cc("s-maxage=1, stale-if-error=10"), want: "miss"}, {after: 5 * time.Second, status: 503, want: "stale"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				play(t, httpcache.Config{Trusted: func(r *http.Request) bool { return r.Header.Get("Trusted") != "" }}, steps)
			})
		})
	}
}

// play makes the requests of steps.
func play(t *testing.T, config httpcache.Config, steps []step) {
	t.Helper()
	var now step
	s := &site{}
	s.answer = func(w http.ResponseWriter, r *http.Request) {
		for _, h := range now.answer {
			name, value, _ := strings.Cut(h, ": ")
			if name == "Date" {
				w.Header().Del("Date")
			}
			w.Header().Add(name, value)
		}
		tag, modified := r.Header.Get("If-None-Match"), r.Header.Get("If-Modified-Since")
		switch {
		case tag != "" && tag == w.Header().Get("ETag"), tag == "" && modified != "" && modified == w.Header().Get("Last-Modified"):
			w.WriteHeader(http.StatusNotModified)
		default:
			w.WriteHeader(max(now.status, 200) + 0)
			if now.status != http.StatusNotModified && r.Method != http.MethodHead {
				fmt.Fprint(w, "body")
			}
		}
	}
	cache, transport := newCache(t, config, s)
	for n, step := range steps {
		time.Sleep(step.after)
		if now = step; now.method == "" {
			now.method = http.MethodGet
		}
		if now.url == "" {
			now.url = "http://web/"
		}
		if s.err = nil; now.fails {
			s.err = errors.New("refused")
		}
		before := cache.Stats()
		response, body := get(t, transport, now.method, now.url, now.request...)
		got := result(before, cache.Stats())
		synctest.Wait() // for what is validated in the background
		code := now.code
		if code == 0 {
			code = http.StatusOK
		}
		if got != now.want || response.StatusCode != code {
			t.Errorf("request %d: %s with %d, want %s with %d; Cache-Status %q", n+1, got, response.StatusCode, now.want, code, response.Header.Values("Cache-Status"))
		}
		if wantBody := now.method != http.MethodHead && code != 304 && got != "504"; wantBody && body != "body" {
			t.Errorf("request %d: body %q", n+1, body)
		}
		if hit := got == "hit" || got == "stale" || got == "validated"; hit != (response.Header.Get("Age") != "") && got != "miss" && got != "pass" {
			t.Errorf("request %d: a %s has Age %q", n+1, got, response.Header.Get("Age"))
		}
		for _, h := range now.header {
			name, value, _ := strings.Cut(h, ": ")
			if got := response.Header.Get(name); got != value {
				t.Errorf("request %d: %s is %q, want %q", n+1, name, got, value)
			}
		}
	}
}

// What apicache has, row by row.
func TestAsInApicache(t *testing.T) {
	minutes := 5 * time.Minute
	for name, test := range map[string]struct {
		config httpcache.Config
		steps  []step
	}{
		"duration":                            {httpcache.Config{Duration: minutes}, []step{{want: "miss"}, {after: minutes - 1, want: "hit"}, {after: 1, want: "miss"}}},
		"duration, not of a user's page":      {httpcache.Config{Duration: minutes}, []step{{request: []string{"Cookie: a=b"}, want: "miss"}, {want: "miss"}, {request: []string{"Cookie: a=b"}, want: "miss"}, {want: "hit"}}},
		"duration, the site knows better":     {httpcache.Config{Duration: minutes}, []step{{answer: cc("max-age=1"), want: "miss"}, {after: 2 * time.Second, answer: cc("no-store"), want: "miss"}, {want: "pass"}}},
		"middlewareToggle before storing":     {httpcache.Config{Duration: minutes, Store: func(_ *http.Request, r *http.Response) bool { return r.StatusCode == 200 }}, []step{{status: 404, want: "miss", code: 404}, {want: "pass"}}},
		"middlewareToggle before serving":     {httpcache.Config{Duration: minutes, Skip: func(r *http.Request) bool { return r.Header.Get("Admin") != "" }}, []step{{want: "miss"}, {request: []string{"Admin: 1"}, want: "pass"}, {want: "hit"}}},
		"statusCodes.include":                 {httpcache.Config{Duration: minutes, Include: []int{200}}, []step{{status: 404, want: "miss", code: 404}, {want: "pass"}}},
		"statusCodes.exclude":                 {httpcache.Config{Duration: minutes, Exclude: []int{404}}, []step{{status: 404, want: "miss", code: 404}, {want: "pass"}}},
		"statusCodes, by default":             {httpcache.Config{Duration: minutes}, []step{{status: 404, want: "miss", code: 404}, {want: "hit", code: 404}}},
		"appendKey":                           {httpcache.Config{Duration: minutes, Key: func(r *http.Request) string { return r.Header.Get("Session") }}, []step{{request: []string{"Session: a"}, want: "miss"}, {request: []string{"Session: b"}, want: "miss"}, {request: []string{"Session: a"}, want: "hit"}}},
		"headerBlacklist":                     {httpcache.Config{Duration: minutes, DropHeaders: []string{"x-secret", "Set-Cookie"}}, []step{{answer: []string{"X-Secret: 1", "Set-Cookie: a=b", "X-Open: 1"}, want: "miss"}, {want: "hit", header: []string{"X-Secret: ", "Set-Cookie: ", "X-Open: 1"}}}},
		"headers":                             {httpcache.Config{Duration: minutes, SetHeaders: http.Header{"cache-control": {"no-cache"}}}, []step{{want: "miss", header: cc("no-cache")}, {want: "hit", header: cc("no-cache")}}},
		"respectCacheControl: no":             {httpcache.Config{Duration: minutes}, []step{{want: "miss"}, {request: cc("no-cache"), want: "hit"}}},
		"respectCacheControl: yes":            {httpcache.Config{Duration: minutes, Trusted: func(*http.Request) bool { return true }}, []step{{want: "miss"}, {request: cc("no-cache"), want: "miss"}}},
		"x-apicache-bypass":                   {httpcache.Config{Duration: minutes, Skip: func(r *http.Request) bool { return r.Header.Get("X-Apicache-Bypass") == "true" }}, []step{{want: "miss"}, {request: []string{"x-apicache-bypass: true"}, want: "pass"}}},
		"x-apicache-force-fetch":              {httpcache.Config{Duration: minutes, Trusted: func(*http.Request) bool { return true }}, []step{{want: "miss"}, {request: cc("no-cache"), status: 404, want: "miss", code: 404}, {want: "hit", code: 404}}},
		"etag and if-none-match":              {httpcache.Config{Duration: minutes}, []step{{answer: []string{`ETag: "1"`}, want: "miss"}, {request: []string{`If-None-Match: "1"`}, want: "hit", code: 304}}},
		"cache-control that counts down":      {httpcache.Config{Duration: minutes}, []step{{answer: cc("max-age=60"), want: "miss"}, {after: 7 * time.Second, want: "hit", header: []string{"Cache-Control: max-age=60", "Age: 7"}}}},
		"content-encoding is kept":            {httpcache.Config{Duration: minutes}, []step{{answer: []string{"Content-Encoding: gzip", "Vary: Accept-Encoding"}, request: []string{"Accept-Encoding: gzip"}, want: "miss"}, {answer: []string{"Vary: Accept-Encoding"}, want: "miss"}, {request: []string{"Accept-Encoding: gzip"}, want: "hit", header: []string{"Content-Encoding: gzip"}}}},
		"enabled: false is no cache at all":   {httpcache.Config{Skip: func(*http.Request) bool { return true }}, []step{{answer: cc("max-age=60"), want: "pass"}, {want: "pass"}}},
		"POST is not cached, unlike there":    {httpcache.Config{Duration: minutes}, []step{{method: "POST", want: "504"}, {method: "POST", want: "504"}}},
		"errors are not cached, unlike there": {httpcache.Config{Duration: minutes}, []step{{status: 500, want: "miss", code: 500}, {want: "miss"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, test.config, test.steps) })
		})
	}
}

// apicache: groups, clear, getIndex, getPerformance.
func TestGroupsAndIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{answer: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }}
		cache, transport := newCache(t, httpcache.Config{
			Duration: time.Minute,
			Groups:   func(r *http.Request, _ *http.Response) []string { return strings.Split(r.URL.Path, "/")[1:2] },
		}, s)
		fill := func() (fetched int64) {
			before := s.requests.Load()
			for _, path := range []string{"/a/1", "/a/2", "/b/1"} {
				if _, body := get(t, transport, "GET", "http://web"+path); body != path {
					t.Errorf("%s is %q", path, body)
				}
			}
			return s.requests.Load() - before
		}
		for _, test := range []struct {
			what    string
			drop    func()
			fetched int64
		}{
			{"nothing", func() {}, 3}, {"nothing again", func() {}, 0}, {"a group", func() { cache.Invalidate("a") }, 2},
			{"a URL", func() { cache.InvalidateURL("WEB", "/b/1") }, 1}, {"all", cache.Clear, 3}, {"unknown", func() { cache.Invalidate("none"); cache.InvalidateURL("web", "/") }, 0},
		} {
			test.drop()
			if n := fill(); n != test.fetched {
				t.Errorf("%s is dropped: %d fetched, want %d", test.what, n, test.fetched)
			}
		}
		time.Sleep(10 * time.Second)
		index := cache.Index(10)
		if len(index) != 3 || len(cache.Index(2)) != 2 {
			t.Fatalf("the index is %+v", index)
		}
		for _, e := range index {
			if e.Host != "web" || e.Left != 50*time.Second || e.Age != 10*time.Second || e.Bytes != 4 || e.Status != 200 || e.Groups[0] != e.URL[1:2] {
				t.Errorf("an entry of the index is %+v", e)
			}
		}
		if stats := cache.Stats(); stats.Hits != 9 || stats.Misses != 9 || stats.HitRate() != 0.5 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

// What is invalidated while it is fetched is not stored.
func TestInvalidatedWhileFetched(t *testing.T) {
	for name, invalidate := range map[string]func(*httpcache.Cache){
		"group": func(c *httpcache.Cache) { c.Invalidate("g") }, "URL": func(c *httpcache.Cache) { c.InvalidateURL("web", "/") }, "all": (*httpcache.Cache).Clear,
	} {
		var cache *httpcache.Cache
		s := &site{answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			invalidate(cache)
		}}
		var transport http.RoundTripper
		cache, transport = newCache(t, httpcache.Config{Groups: func(*http.Request, *http.Response) []string { return []string{"g"} }}, s)
		get(t, transport, "GET", "http://web/")
		if stats := cache.Stats(); stats.Stored != 0 {
			t.Errorf("%s: stats are %+v, want nothing stored", name, stats)
		}
	}
}

func TestMissesAtTheSameTimeAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail atomic.Bool
		s := &site{answer: func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
			if fail.Load() {
				w.WriteHeader(http.StatusInternalServerError)
			}
			w.Header().Set("Cache-Control", r.Header.Get("Answer"))
			fmt.Fprint(w, "body")
		}}
		cache, transport := newCache(t, httpcache.Config{}, s)
		crowd := func(url, answer string) int64 {
			before := s.requests.Load()
			var wait sync.WaitGroup
			for range 100 {
				wait.Go(func() {
					if response, body := get(t, transport, "GET", url, "Answer: "+answer); response.StatusCode != 200 || body != "body" {
						t.Errorf("status %d, body %q", response.StatusCode, body)
					}
				})
			}
			wait.Wait()
			synctest.Wait() // for what is validated in the background
			return s.requests.Load() - before
		}
		if n := crowd("http://web/stored", "max-age=10"); n != 1 {
			t.Errorf("%d requests for one answer", n)
		}
		time.Sleep(10 * time.Second)
		if n := crowd("http://web/stored", "max-age=10, stale-while-revalidate=60"); n != 1 {
			t.Errorf("%d requests after it is stale", n)
		}
		time.Sleep(10 * time.Second)
		if n := crowd("http://web/stored", "max-age=60"); n != 1 {
			t.Errorf("%d requests in the background", n)
		}
		time.Sleep(2 * time.Second)
		if n := crowd("http://web/private", "private"); n != 100 {
			t.Errorf("%d requests for answers that are not shared, want 100", n)
		}
		start := time.Now()
		crowd("http://web/private", "private")
		if time.Since(start) != time.Second {
			t.Error("requests wait for each other although nothing is stored")
		}
		if stats := cache.Stats(); stats.Coalesced != 198 {
			t.Errorf("stats are %+v", stats)
		}
		// Whoever leads may go away: the others still get an answer, by one request.
		before := s.requests.Load()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		var wait sync.WaitGroup
		wait.Go(func() {
			r, _ := http.NewRequestWithContext(ctx, "GET", "http://web/left", nil)
			if _, err := transport.RoundTrip(r); !errors.Is(err, context.Canceled) {
				t.Errorf("the leader has %v", err)
			}
		})
		synctest.Wait()
		wait.Go(func() {
			if n := crowd("http://web/left", "max-age=60"); n != 1 {
				t.Errorf("%d requests after the leader left", n)
			}
		})
		wait.Wait()
		if n := s.requests.Load() - before; n != 2 {
			t.Errorf("%d requests in all, want 2", n)
		}
		s.err = errors.New("refused")
		before = s.requests.Load()
		for range 10 {
			wait.Go(func() {
				r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://web/refused", nil)
				if _, err := transport.RoundTrip(r); !errors.Is(err, s.err) {
					t.Errorf("error %v", err)
				}
			})
		}
		wait.Wait()
		if n := s.requests.Load() - before; n < 1 || n > 10 {
			t.Errorf("%d requests", n)
		}
	})
}

// Unsafe requests to other URLs hardly ever drop an answer.
func TestInvalidationIsPrecise(t *testing.T) {
	s := &site{answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=600") }}
	cache, transport := newCache(t, httpcache.Config{}, s)
	const urls = 200
	for i := range urls {
		get(t, transport, "GET", fmt.Sprint("http://web/", i))
	}
	for i := range 2000 {
		get(t, transport, "POST", fmt.Sprint("http://web/other/", i))
	}
	for i := range urls {
		get(t, transport, "GET", fmt.Sprint("http://web/", i))
	}
	if hits := cache.Stats().Hits; hits < urls*3/4 {
		t.Errorf("%d of %d answers are left", hits, urls)
	}
	for i := range urls {
		get(t, transport, "POST", fmt.Sprint("http://web/", i))
	}
	before := cache.Stats().Hits
	for i := range urls {
		get(t, transport, "GET", fmt.Sprint("http://web/", i))
	}
	if hits := cache.Stats().Hits; hits != before {
		t.Errorf("%d answers are left of those that were changed", hits-before)
	}
}

// Conditions and directives that make no sense do no harm, and never make a 304 of another
// answer.
func FuzzConditions(f *testing.F) {
	for _, seed := range []string{`"1"`, `W/"1", "2"`, `"1" "2"`, `*`, `W/`, `"`, `""`, ` , ,"x"`, "\"a,\"1\""} {
		f.Add(seed, "no-cache, max-age=1", "accept, *")
	}
	cache, err := httpcache.New(httpcache.Config{Trusted: func(*http.Request) bool { return true }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(cache.Close)
	f.Fuzz(func(t *testing.T, tags, said, vary string) {
		s := &site{answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("ETag", `"the tag"`)
			w.Header().Set("Vary", vary)
		}}
		transport := cache.Transport(s)
		for range 2 {
			response, _ := get(t, transport, "GET", "http://web/", "If-None-Match: "+tags, "Cache-Control: "+said)
			if response.StatusCode == http.StatusNotModified && !strings.Contains(tags, `"the tag"`) && !strings.Contains(tags, "*") {
				t.Errorf("%q matches", tags)
			}
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	const most = 1 << 20
	body := strings.Repeat("x", 10_000)
	s := &site{answer: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "X-Any")
		fmt.Fprint(w, body)
	}}
	cache, transport := newCache(t, httpcache.Config{MaxBytes: most, MaxBody: 50_000}, s)
	for i := range 2000 {
		get(t, transport, "GET", fmt.Sprint("http://web/", i%500), fmt.Sprint("X-Any: ", i))
	}
	if stats := cache.Stats(); stats.Bytes > most || stats.Evicted < 1000 || stats.Entries == 0 {
		t.Errorf("stats are %+v", stats)
	}
	body = strings.Repeat("x", 50_001)
	cache, transport = newCache(t, httpcache.Config{MaxBody: 50_000}, s)
	for range 2 {
		if _, got := get(t, transport, "GET", "http://web/large"); got != body {
			t.Errorf("a large body has %d bytes", len(got))
		}
	}
	if stats := cache.Stats(); stats.Passed != 1 {
		t.Errorf("stats are %+v, want the large one not stored", stats)
	}
}

// A body that breaks off passes as it is, and is not stored.
func TestABrokenBodyIsNotStored(t *testing.T) {
	broken := errors.New("broken")
	c, err := httpcache.New(httpcache.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	transport := c.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, ContentLength: -1, Request: r,
			Body: io.NopCloser(io.MultiReader(strings.NewReader("half"), failing{broken})),
		}, nil
	}))
	for range 2 {
		r := httptest.NewRequest("GET", "http://web/", nil)
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		if string(text) != "half" || !errors.Is(err, broken) {
			t.Errorf("the body is %q, %v", text, err)
		}
	}
	if c.Stats().Stored != 0 {
		t.Error("half an answer is stored")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A stream of events passes as it comes, whatever says that it may be stored.
func TestEventsAreNotCollected(t *testing.T) {
	reader, writer := io.Pipe()
	cache, err := httpcache.New(httpcache.Config{Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	transport := cache.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, ContentLength: -1, Body: reader, Request: r}, nil
	}))
	response, err := transport.RoundTrip(httptest.NewRequest("GET", "http://web/events", nil))
	if err != nil {
		t.Fatal(err)
	}
	go fmt.Fprint(writer, "data: 1\n\n")
	event := make([]byte, 9)
	if _, err := io.ReadFull(response.Body, event); err != nil || string(event) != "data: 1\n\n" {
		t.Errorf("%q, %v", event, err)
	}
	_ = response.Body.Close()
}

// Two users behind one gateway never see each other's answers.
func TestTwoUsersAreNotMixedUp(t *testing.T) {
	s := &site{answer: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, r.Header.Get("X-Meshlite-Subject")+r.Header.Get("Cookie"))
	}}
	_, transport := newCache(t, httpcache.Config{Duration: time.Hour, StaleIfError: time.Hour}, s)
	var wait sync.WaitGroup
	for i := range 200 {
		user := []string{"alice", "bob"}[i%2]
		wait.Go(func() {
			if _, body := get(t, transport, "GET", "http://web/me", "X-Meshlite-Subject: "+user); body != user {
				t.Errorf("%s sees the answer to %s", user, body)
			}
			if _, body := get(t, transport, "GET", "http://web/me", "Cookie: "+user); body != user {
				t.Errorf("the session of %s sees the answer to %s", user, body)
			}
		})
	}
	wait.Wait()
}

func TestConfigIsChecked(t *testing.T) {
	for want, config := range map[string]httpcache.Config{
		"MaxBytes 1 ":          {MaxBytes: 1},
		"MaxBody 8388609":      {MaxBody: 8<<20 + 1},
		"negative":             {Duration: -1},
		"status 99 in Include": {Include: []int{99}},
	} {
		if _, err := httpcache.New(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
