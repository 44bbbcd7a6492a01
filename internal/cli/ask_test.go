package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A page that is closed to a name says what to do, and another program's page is
// suspected where it cannot know.
func TestWhyAPageIsClosed(t *testing.T) {
	for code, want := range map[int]string{403: `host "web-9" is not known`, 404: "is it a meshlite program?"} {
		response := &http.Response{
			StatusCode: code, Body: io.NopCloser(strings.NewReader("host \"web-9\" is not known\n")),
			Request: httptest.NewRequest(http.MethodGet, "http://web-9/debug/meshlite", nil),
		}
		if err := refusal(response); !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", code, err, want)
		}
	}
}
