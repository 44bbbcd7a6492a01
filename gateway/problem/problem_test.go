package problem_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/gateway/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleWrite() {
	w := httptest.NewRecorder()
	problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "no such sweet", Code: "NOT_FOUND"})
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	fmt.Println(w.Body)
	// Output:
	// 404 application/problem+json
	// {"title":"Not Found","status":404,"detail":"no such sweet","code":"NOT_FOUND"}
}

func TestAProblemIsNeverOfAnotherBody(t *testing.T) {
	w := httptest.NewRecorder()
	for _, name := range []string{"Content-Encoding", "Content-Length", "ETag", "Last-Modified"} {
		w.Header().Set(name, "1")
	}
	w.Header().Set("Retry-After", "7")
	problem.Write(w, problem.Problem{Status: 200, Details: []json.RawMessage{[]byte("{")}})
	for name, want := range map[string]string{"Content-Encoding": "", "Content-Length": "", "Etag": "", "Last-Modified": "", "Retry-After": "7", "Cache-Control": "no-store"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	var body problem.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Status != 500 || w.Code != 500 || body.Title != "Internal Server Error" {
		t.Errorf("status %d, body %s, error %v: want one problem of status 500", w.Code, w.Body, err)
	}
}
