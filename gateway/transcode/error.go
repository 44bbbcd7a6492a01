package transcode

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// disclosure is what callers may see of answers and failures.
type disclosure struct {
	headers  map[string]string // names of headers, by metadata key
	internal bool              // texts and details that are for operators
	logger   *slog.Logger      // for what callers do not see
}

// writeError answers a request that was refused, or whose call has failed.
func (d *disclosure) writeError(w http.ResponseWriter, r *http.Request, got answer) {
	if refused := new(refusal); errors.As(got.err, &refused) {
		problem.Write(w, refused.Problem)
		return
	}
	problem.Write(w, d.problemOf(got.method, d.failed(w, r, got)))
}

// failed logs a failure and sets its headers.
func (d *disclosure) failed(w http.ResponseWriter, r *http.Request, got answer) *status.Status {
	failure := status.Convert(got.err)
	d.logHidden(r, got.method, failure)
	d.setHeaders(w.Header(), got)
	setRetryAfter(w.Header(), failure, got.trailer)
	setNegativeCache(w.Header(), r, got, failure.Code())
	return failure
}

// problemOf is what a caller may read of a failure.
func (d *disclosure) problemOf(method *method, failure *status.Status) problem.Problem {
	p := problemOfCode(failure.Code(), d.textOf(failure))
	for _, detail := range d.details(failure) {
		if text, err := method.writing.Marshal(detail); err == nil { // of a type that is known
			p.Details = append(p.Details, json.RawMessage(compact(text)))
		}
		if bad := new(errdetails.BadRequest); p.Field == "" && detail.MessageIs(bad) && detail.UnmarshalTo(bad) == nil && len(bad.GetFieldViolations()) > 0 {
			p.Field = bad.GetFieldViolations()[0].GetField()
		}
	}
	return p
}

func problemOfCode(c codes.Code, detail string) problem.Problem {
	p := problem.Problem{Status: runtime.HTTPStatusFromCode(c), Code: codeName(c), Detail: detail}
	if c == codes.Canceled {
		p.Title = "Client Closed Request" // 499 has no name in net/http
	}
	return p
}

// codeName is a code as google.rpc writes it: NOT_FOUND.
func codeName(c codes.Code) string {
	if name, ok := code.Code_name[int32(c)]; ok {
		return name
	}
	return "UNKNOWN"
}

// hidesText reports whether the text of a code is for operators: it is what a program said of
// itself, or grpc of its connections.
func hidesText(c codes.Code) bool { return textOf(c) != "" }

// textOf is shown instead of a text that is hidden.
func textOf(c codes.Code) string {
	switch c {
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return "the service has failed; the reason is in the log of the gateway"
	case codes.Unavailable:
		return "the service is not available now; the reason is in the log of the gateway"
	case codes.DeadlineExceeded:
		return "the call has not ended before its deadline"
	case codes.Canceled:
		return "the call was cancelled"
	}
	if c > codes.Unauthenticated {
		return textOf(codes.Unknown)
	}
	return ""
}

func (d *disclosure) textOf(failure *status.Status) string {
	if !d.internal && hidesText(failure.Code()) {
		return textOf(failure.Code())
	}
	return strings.ToValidUTF8(failure.Message(), "\ufffd")
}

func (d *disclosure) logHidden(r *http.Request, method *method, failure *status.Status) {
	if !d.internal && hidesText(failure.Code()) && failure.Code() != codes.Canceled {
		d.logger.WarnContext(r.Context(), "a call failed", "service", method.service.Name, "method", method.path, "code", codeName(failure.Code()), "error", failure.Message())
	}
}

// details leaves out what is for operators: stack traces, and, where the text is hidden,
// details that are not of google.rpc.
func (d *disclosure) details(failure *status.Status) []*anypb.Any {
	var shown []*anypb.Any
	for _, detail := range failure.Proto().GetDetails() {
		name := string(detail.MessageName())
		hidden := name == "google.rpc.DebugInfo" || hidesText(failure.Code()) && !strings.HasPrefix(name, "google.rpc.")
		if d.internal || !hidden {
			shown = append(shown, detail)
		}
	}
	return shown
}

// setRetryAfter publishes when a retry is welcome, in whole seconds.
func setRetryAfter(header http.Header, failure *status.Status, trailer metadata.MD) {
	wait, given := wire.Pushback(trailer)
	for _, detail := range failure.Proto().GetDetails() {
		if retry := new(errdetails.RetryInfo); detail.MessageIs(retry) && proto.Unmarshal(detail.GetValue(), retry) == nil && retry.GetRetryDelay().IsValid() {
			wait, given = retry.GetRetryDelay().AsDuration(), true
		}
	}
	if !given || wait < 0 {
		return
	}
	whole := int64(wait / time.Second)
	if wait%time.Second > 0 {
		whole++
	}
	header.Set("Retry-After", strconv.FormatInt(whole, 10))
}

// The fields of a rate limit (draft-ietf-httpapi-ratelimit-headers), which callers get in any
// case.
var rateLimitFields = map[string]string{"ratelimit": "Ratelimit", "ratelimit-policy": "Ratelimit-Policy"}

// setHeaders copies the response metadata that callers may see.
func (d *disclosure) setHeaders(header http.Header, got answer) {
	for _, md := range []metadata.MD{got.header, got.trailer} {
		for name, values := range d.metadata(md) {
			header[name] = values
		}
	}
}

// metadata yields the metadata that callers may see, by name of header.
func (d *disclosure) metadata(md metadata.MD) iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for key, values := range md {
			name, ok := d.headers[key]
			if !ok {
				name, ok = rateLimitFields[key]
			}
			if ok && !yield(name, headerValues(key, values)) {
				return
			}
		}
	}
}

// headerValues drops values that would end a header, and encodes binary ones as gRPC does.
func headerValues(key string, values []string) []string {
	var kept []string
	for _, value := range values {
		switch {
		case strings.HasSuffix(key, "-bin"):
			kept = append(kept, base64.RawStdEncoding.EncodeToString([]byte(value)))
		case !strings.ContainsAny(value, "\r\n\x00"):
			kept = append(kept, value)
		}
	}
	return kept
}

// isReserved reports whether a key of metadata is about a hop, the mesh or the answer's body,
// so that it may not become a header.
func isReserved(key string) bool {
	switch key {
	case "content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive", "te",
		"trailer", "upgrade", "host", "etag", "age", "cache-control", "vary", "retry-after", "allow":
		return true
	}
	return strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, "x-meshlite-") || strings.HasPrefix(key, "meshlite-") || strings.HasPrefix(key, "proxy-")
}
