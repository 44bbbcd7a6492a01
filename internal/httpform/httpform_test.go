package httpform_test

import (
	"net/http"
	"net/url"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/httpform"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFormsThatNobodyMaySend(t *testing.T) {
	for _, test := range []struct {
		method, host, path, query string
		fine                      bool
	}{
		{"GET", "shop.example:8080", "/a//b", "c=d&é", true},
		{"M-SEARCH", "[::1]:80", "/..a/b;c/€", "a=../b", true},
		{"GET", "", "/", "", true},
		{"G T", "a", "/", "", false},
		{"GET /x", "a", "/", "", false},
		{"GET", "a b", "/", "", false},
		{"GET", "a/b", "/", "", false},
		{"GET", "a", "/", "x HTTP/1.1", false},
		{"GET", "a", "/", "x\r\ny: z", false},
		{"GET", "a", "/\n", "", false},
		{"GET", "a", "*", "", false},
		{"GET", "a", "/a/../b", "", false},
		{"GET", "a", `/a\..\b`, "", false},
		{"GET", "a", "/a/..;x/b", "", false},
		{"GET", "a", "/.", "", false},
	} {
		r := &http.Request{Method: test.method, Host: test.host, URL: &url.URL{Path: test.path, RawQuery: test.query}}
		if err := httpform.Check(r); (err == nil) != test.fine {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestClaims(t *testing.T) {
	for header, want := range map[string]bool{
		"X-Forwarded-For": true, "X_forwarded_for": true, "x-forwarded": true, "X-Meshlite-Subject": true, "X_Meshlite_Subject": true, "X_meshlite-Subject": true,
		"Forwarded": true, "X-Real-Ip": true, "X_real_ip": true, "True-Client-Ip": true, "Client-Ip": true,
		"X-Forward": false, "Via": false, "X-Request-Id": false, "Authorization": false,
	} {
		if got := httpform.IsClaim(header); got != want {
			t.Errorf("%s: %v", header, got)
		}
	}
}
