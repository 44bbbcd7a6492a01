package transcode_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// failing answers each call with err.
func failing(err error, md ...string) *backend {
	return &backend{handle: func(ctx context.Context, _ *forms.Thing) (*forms.Thing, error) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(md...))
		return nil, err
	}}
}

func withDetails(t *testing.T, code codes.Code, text string, details ...protoadapt.MessageV1) error {
	t.Helper()
	s, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// Case E4: Each gRPC code has its HTTP status; details of google.rpc are in the body; a panic's or UNKNOWN's text does not reach a stranger.
func TestEachCodeHasItsStatusAndHidesWhatIsInternal(t *testing.T) {
	hidden := map[codes.Code]bool{codes.Unknown: true, codes.Internal: true, codes.DataLoss: true, codes.Unavailable: true, codes.DeadlineExceeded: true, codes.Canceled: true}
	want := map[codes.Code]int{
		codes.Canceled: 499, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504, codes.NotFound: 404, codes.AlreadyExists: 409,
		codes.PermissionDenied: 403, codes.ResourceExhausted: 429, codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400,
		codes.Unimplemented: 501, codes.Internal: 500, codes.Unavailable: 503, codes.DataLoss: 500, codes.Unauthenticated: 401,
	}
	const secret = "dial tcp 10.1.2.3:5432: password=hunter2"
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		for _, show := range []bool{false, true} {
			var log bytes.Buffer
			b := failing(withDetails(t, code, secret, &errdetails.DebugInfo{Detail: secret}, &errdetails.ErrorInfo{Reason: "WHY"}))
			w := do(newMux(t, b, func(c *transcode.Config) {
				c.ShowInternal, c.Logger = show, slog.New(slog.NewTextHandler(&log, nil))
			}), "GET", "/v1/literal", "")
			p := problemIn(t, w)
			if w.Code != want[code] || w.Code != runtime.HTTPStatusFromCode(code) {
				t.Errorf("%v: status %d, want %d", code, w.Code, want[code])
			}
			if shown := p.Detail == secret; shown != (show || !hidden[code]) || !shown && strings.Contains(w.Body.String(), "10.1.2.3") && hidden[code] {
				t.Errorf("%v, show %v: %s", code, show, w.Body)
			}
			if strings.Contains(w.Body.String(), "DebugInfo") != show || !strings.Contains(w.Body.String(), `"reason":"WHY"`) {
				t.Errorf("%v, show %v: details %s", code, show, p.Details)
			}
			if logged := strings.Contains(log.String(), "hunter2"); logged != (hidden[code] && !show && code != codes.Canceled) {
				t.Errorf("%v, show %v: log %q", code, show, log.String())
			}
			if strings.ToUpper(strings.ReplaceAll(p.Code, "_", "")) != strings.Replace(strings.ToUpper(code.String()), "CANCELED", "CANCELLED", 1) {
				t.Errorf("%v: code %q", code, p.Code)
			}
		}
	}
}

func TestAPanicIsAnsweredWithoutItsReason(t *testing.T) {
	var log bytes.Buffer
	b := new(backend)
	mux := newMux(t, b, func(c *transcode.Config) {
		c.Metadata = func(*http.Request) metadata.MD { panic("hunter2") }
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	w := do(mux, "GET", "/v1/literal", "")
	if p := problemIn(t, w); w.Code != 500 || p.Code != "INTERNAL" || strings.Contains(w.Body.String(), "hunter2") || !strings.Contains(log.String(), "hunter2") {
		t.Errorf("status %d, %s, log %q", w.Code, w.Body, log.String())
	}
}

func TestDetailsAreThoseThatTheContractOrGoogleHas(t *testing.T) {
	part, err := anypb.New(&forms.Part{Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	proto := status.New(codes.NotFound, "no such part").Proto()
	proto.Details = []*anypb.Any{part, {TypeUrl: "type.googleapis.com/other.v1.Thing", Value: []byte("x")}, {TypeUrl: "type.googleapis.com/forms.v1.Part", Value: []byte("broken")}}
	violation, err := anypb.New(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "part.name"}}})
	if err != nil {
		t.Fatal(err)
	}
	proto.Details = append(proto.Details, violation)
	p := problemIn(t, do(newMux(t, failing(status.ErrorProto(proto)), nil), "GET", "/v1/literal", ""))
	var details []string
	for _, detail := range p.Details {
		details = append(details, string(detail))
	}
	want := []string{`{"@type":"type.googleapis.com/forms.v1.Part","name":"p"}`, `{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"part.name"}]}`}
	if !reflect.DeepEqual(details, want) || p.Field != "part.name" || p.Detail != "no such part" {
		t.Errorf("problem %+v with details %q", p, details)
	}
}

func TestARefusalOfARateLimitSaysWhenToComeAgain(t *testing.T) {
	retry := func(d time.Duration) error {
		return withDetails(t, codes.ResourceExhausted, "slow down", &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	for _, test := range []struct {
		err     error
		trailer []string
		after   string
	}{
		{retry(1500 * time.Millisecond), nil, "2"},
		{retry(0), nil, "0"},
		{retry(math.MaxInt64), nil, "9223372037"},
		{retry(-time.Second), nil, ""},
		{retry(time.Second), []string{"grpc-retry-pushback-ms", "5000"}, "1"},
		{status.Error(codes.ResourceExhausted, ""), []string{"grpc-retry-pushback-ms", "4001"}, "5"},
		{status.Error(codes.ResourceExhausted, ""), []string{"grpc-retry-pushback-ms", "-1"}, ""},
		{status.Error(codes.ResourceExhausted, ""), nil, ""},
	} {
		md := append(test.trailer, "ratelimit", `"a";r=0;t=5`, "ratelimit-policy", `"a";q=1;w=5`, "secret", "x")
		w := do(newMux(t, failing(test.err, md...), nil), "GET", "/v1/literal", "")
		h := w.Header()
		if w.Code != 429 || h.Get("Retry-After") != test.after || h.Get("RateLimit") != `"a";r=0;t=5` || h.Get("RateLimit-Policy") != `"a";q=1;w=5` || h.Get("Secret") != "" {
			t.Errorf("%v %q: status %d, headers %v; want retry-after %q", test.err, test.trailer, w.Code, h, test.after)
		}
	}
}
