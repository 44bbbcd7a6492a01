package admin_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/admin"
)

const clearPath = "/debug/meshlite/cache/clear"

// clearing is a page with an action that returns what it was given.
func clearing(t *testing.T) http.Handler {
	t.Helper()
	return build(t, admin.WithAction("cache/clear", "empty the cache", func(_ context.Context, values url.Values) (any, error) {
		if values.Get("tag") == "broken" {
			return nil, errors.New("it could not be done")
		}
		return map[string]any{"given": values}, nil
	}))
}

// ask asks for the action, as change has it.
func ask(body string, change func(*http.Request)) *http.Request {
	r := fromLoopback(httptest.NewRequest(http.MethodPost, clearPath, strings.NewReader(body)))
	r.Header.Set("Meshlite-Action", "cache/clear")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(r)
	}
	return r
}

func set(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

func TestActions(t *testing.T) {
	tests := []struct {
		name    string
		request *http.Request
		code    int
		body    string
	}{
		{"done", ask("tag=sweets&tag=sweet%3Afudge", nil), 200, `"sweet:fudge"`},
		{"without values", ask("", func(r *http.Request) { r.Header.Del("Content-Type") }), 200, `"given": {}`},
		{"values in the address", ask("", func(r *http.Request) { r.URL.RawQuery = "tag=sweets" }), 200, `"sweets"`},
		{"with a charset", ask("tag=sweets", set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")), 200, `"sweets"`},
		{"error", ask("tag=broken", nil), 400, "it could not be done\n"},

		{"header missing", ask("", func(r *http.Request) { r.Header.Del("Meshlite-Action") }), 403, `header Meshlite-Action: "": write "cache/clear"`},
		{"of another action", ask("", set("Meshlite-Action", "cache")), 403, `header Meshlite-Action: "cache": write "cache/clear"`},
		{"cross-site", ask("", set("Origin", "http://evil.example")), 403, "not for pages in a browser"},
		{"of a page that hides", ask("", set("Origin", "null")), 403, "not for pages in a browser"},
		{"of this very host", ask("", set("Origin", "http://example.com")), 403, "not for pages in a browser"},
		{"cross-site by another header", ask("", set("Sec-Fetch-Site", "cross-site")), 403, "not for pages in a browser"},
		{"typed by somebody", ask("", set("Sec-Fetch-Site", "none")), 403, "not for pages in a browser"},

		{"get", ask("", func(r *http.Request) { r.Method = http.MethodGet }), 405, ""},
		{"head", ask("", func(r *http.Request) { r.Method = http.MethodHead }), 405, ""},
		{"preflight", ask("", func(r *http.Request) { r.Method = http.MethodOptions }), 405, ""},
		{"unknown", ask("", func(r *http.Request) { r.URL.Path = "/debug/meshlite/cache/fill" }), 404, ""},
		{"below it", ask("", func(r *http.Request) { r.URL.Path += "/all" }), 404, ""},
		{"write to a page", ask("", func(r *http.Request) { r.URL.Path = "/debug/meshlite" }), 405, ""},

		{"json", ask(`{"all": true}`, set("Content-Type", "application/json")), 415, `content type "application/json": write the values as`},
		{"odd type", ask("", set("Content-Type", ";;")), 415, `content type ";;"`},
		{"bad escape", ask("tag=%zz", nil), 400, "invalid URL escape"},
		{"huge", ask("tag="+strings.Repeat("x", 65<<10), nil), 413, "more than 64 KiB"},
		{"huge and of unknown length", ask("", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("tag="+strings.Repeat("x", 65<<10))), -1
		}), 413, "more than 64 KiB"},
	}
	handler := clearing(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, tt.request)
			if answer.Code != tt.code || !strings.Contains(answer.Body.String(), tt.body) {
				t.Errorf("%d %q, want %d with %q", answer.Code, answer.Body, tt.code, tt.body)
			}
			if allowed := answer.Header().Get("Access-Control-Allow-Origin"); allowed != "" {
				t.Errorf("%s may read it", allowed)
			}
		})
	}
}

func TestTheIndexListsActions(t *testing.T) {
	if body := get(clearing(t), "GET", "/").Body.String(); !strings.Contains(body, clearPath+"\tPOST: empty the cache\n") {
		t.Errorf("index %q", body)
	}
}

func TestActionsAreChecked(t *testing.T) {
	do := func(context.Context, url.Values) (any, error) { return nil, nil }
	for want, opts := range map[string][]admin.Option{
		`WithAction(""): write small letters`:       {admin.WithAction("", "", do)},
		`WithAction("/clear"): write small letters`: {admin.WithAction("/clear", "", do)},
		`WithAction("a//b"): write small letters`:   {admin.WithAction("a//b", "", do)},
		`WithAction("{all...}"): write`:             {admin.WithAction("{all...}", "", do)},
		`WithAction("clear", nil)`:                  {admin.WithAction("clear", "", nil)},
		`WithAction("clear") is given twice: give`:  {admin.WithAction("clear", "", do), admin.WithAction("clear", "", do)},
	} {
		if _, err := admin.New(opts...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that names %s", err, want)
		}
	}
}
