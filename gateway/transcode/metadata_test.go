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

	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// Case E14
func TestHeadersReachABackendOnlyThroughMetadata(t *testing.T) {
	var b backend
	mux := newMux(t, &b, func(c *transcode.Config) {
		c.Metadata = func(r *http.Request) metadata.MD {
			return metadata.Pairs("x-request-id", r.Header.Get("X-Request-Id"), "if-none-match", `"theirs"`)
		}
	})
	do(mux, "GET", "/v1/literal", "", "X-Request-Id", "7", "Authorization", "secret", "Grpc-Metadata-Secret", "secret", "Grpc-Trace-Bin", "secret",
		"X-Meshlite-Subject", "secret", "Connection", "secret", "Te", "secret", "Cookie", "secret", "If-None-Match", "secret", "Cache-Control", "secret")
	calls := b.taken()
	if len(calls) != 1 || calls[0].md.Get("x-request-id")[0] != "7" {
		t.Fatalf("calls %v, want one with x-request-id", calls)
	}
	for key, values := range calls[0].md {
		switch key {
		case ":authority", "content-type", "user-agent", "x-request-id":
		default:
			t.Errorf("metadata %s: %q, want none", key, values)
		}
		if strings.Contains(strings.Join(values, ""), "secret") {
			t.Errorf("metadata %s: %q", key, values)
		}
	}
}

func TestOnlyTheMetadataThatIsNamedComesOut(t *testing.T) {
	b := backend{handle: func(ctx context.Context, in *forms.Thing) (*forms.Thing, error) {
		_ = grpc.SetHeader(ctx, metadata.Pairs("X-Allowed", "a", "x-allowed", "b", "x-other", "c", "x-meshlite-subject", "d"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-in-trailer", "e", "grpc-retry-pushback-ms", "1"))
		return in, nil
	}}
	mux := newMux(t, &b, func(c *transcode.Config) { c.Headers = []string{"X-Allowed", "x-in-trailer"} })
	h := do(mux, "GET", "/v1/literal", "").Header()
	if got := h.Values("X-Allowed"); len(got) != 2 || h.Get("X-In-Trailer") != "e" {
		t.Errorf("headers %v, want those named", h)
	}
	for _, name := range []string{"X-Other", "X-Meshlite-Subject", "Grpc-Retry-Pushback-Ms"} {
		if h.Get(name) != "" {
			t.Errorf("header %s: %q, want none", name, h.Get(name))
		}
	}
}

func TestDeadlines(t *testing.T) {
	var left time.Duration
	conn := invoker(func(ctx context.Context, _ any) error {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return nil
	})
	synctest.Test(t, func(t *testing.T) {
		mux := newMuxOver(t, conn, func(c *transcode.Config) { c.MaxTimeout = time.Minute })
		for _, test := range []struct {
			headers []string
			want    time.Duration
			status  int
		}{
			{nil, 30 * time.Second, 200},
			{[]string{"grpc-timeout", "250m"}, 250 * time.Millisecond, 200},
			{[]string{"grpc-timeout", "3S"}, 3 * time.Second, 200},
			{[]string{"grpc-timeout", "99999999H"}, time.Minute, 200},
			{[]string{"grpc-timeout", "2M"}, time.Minute, 200},
			{[]string{"grpc-timeout", "1S", "Prefer", "wait=9"}, time.Second, 200},
			{[]string{"grpc-timeout", "123456789S"}, 0, 400},
			{[]string{"grpc-timeout", "-1S"}, 0, 400},
			{[]string{"grpc-timeout", "1s"}, 0, 400},
			{[]string{"connect-timeout-ms", "1500"}, 1500 * time.Millisecond, 200},
			{[]string{"connect-timeout-ms", "9999999999"}, time.Minute, 200},
			{[]string{"connect-timeout-ms", "1.5"}, 0, 400},
			{[]string{"Prefer", "wait=5"}, 5 * time.Second, 200},
			{[]string{"Prefer", `respond-async, WAIT="7";x=y`}, 7 * time.Second, 200},
			{[]string{"Prefer", "wait=100"}, time.Minute, 200},
			{[]string{"Prefer", "wait=soon"}, 30 * time.Second, 200},
			{[]string{"Prefer", "wait=-1"}, 30 * time.Second, 200},
		} {
			left = 0
			w := do(mux, "GET", "/v1/literal", "", test.headers...)
			if w.Code != test.status || left != test.want {
				t.Errorf("%q: status %d, deadline in %v; want %d, %v", test.headers, w.Code, left, test.status, test.want)
			}
			applied := ""
			if len(test.headers) > 0 && test.headers[0] == "Prefer" && test.want != 30*time.Second {
				applied = "wait=" + strconv.Itoa(int(test.want/time.Second))
			}
			if w.Header().Get("Preference-Applied") != applied {
				t.Errorf("%q: preference-applied %q, want %q", test.headers, w.Header().Get("Preference-Applied"), applied)
			}
		}
	})
}

// invoker is a channel that answers unary calls.
type invoker func(ctx context.Context, request any) error

func (i invoker) Invoke(ctx context.Context, _ string, request, _ any, _ ...grpc.CallOption) error {
	return i(ctx, request)
}

func (invoker) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "")
}

// Case E9: A caller that goes away cancels the call at the backend within 100 ms; a stream to it ends.
func TestACallerThatGoesAwayCancelsItsCall(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error)
	b := backend{handle: func(ctx context.Context, _ *forms.Thing) (*forms.Thing, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	server := httptest.NewServer(newMux(t, &b, nil))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/bodies", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := server.Client().Do(r)
		failed <- err
	}()
	<-began
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Errorf("the handler ended with %v, want %v", err, context.Canceled)
	}
	if err := <-failed; err == nil {
		t.Error("the caller had an answer")
	}
}

// echo is a channel whose backend answers each unary call with its request.
type echo struct{ invoker }

func (echo) Invoke(_ context.Context, _ string, request, answer any, _ ...grpc.CallOption) error {
	proto.Merge(answer.(proto.Message), request.(proto.Message))
	return nil
}
