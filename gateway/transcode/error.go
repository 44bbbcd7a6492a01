package transcode

import (
	"encoding/json"
	"errors"
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

// statusClientClosed is that of CANCELLED, which has no name in net/http.
const statusClientClosed = 499

// writeError answers a request for which no call was made.
func (m *Mux) writeError(w http.ResponseWriter, _ *http.Request, err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		refused = refuse(http.StatusBadRequest, "%s", shortened(err.Error()))
	}
	problem.Write(w, refused.Problem)
}

// writeCallError answers with the error of a call.
func (m *Mux) writeCallError(w http.ResponseWriter, r *http.Request, got answer) {
	failure := status.Convert(got.err)
	m.logHidden(r, got.method, failure)
	m.setHeaders(w.Header(), got)
	setRetryAfter(w.Header(), failure, got.trailer)
	problem.Write(w, m.problemOf(got.method, failure))
}

// problemOf is what a caller may read of a failure.
func (m *Mux) problemOf(method *method, failure *status.Status) problem.Problem {
	p := problem.Problem{
		Status: runtime.HTTPStatusFromCode(failure.Code()),
		Code:   codeName(failure.Code()),
		Detail: m.textOf(failure),
	}
	if p.Status == statusClientClosed {
		p.Title = "Client Closed Request"
	}
	for _, detail := range m.shownDetails(failure) {
		if text, err := method.writing.Marshal(detail); err == nil { // of a type that is known
			p.Details = append(p.Details, json.RawMessage(compact(text)))
		}
		if bad := new(errdetails.BadRequest); p.Field == "" && detail.MessageIs(bad) && detail.UnmarshalTo(bad) == nil && len(bad.GetFieldViolations()) > 0 {
			p.Field = bad.GetFieldViolations()[0].GetField()
		}
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

func (m *Mux) textOf(failure *status.Status) string {
	if !m.config.ShowInternal && hidesText(failure.Code()) {
		return textOf(failure.Code())
	}
	return strings.ToValidUTF8(failure.Message(), "\ufffd")
}

func (m *Mux) logHidden(r *http.Request, method *method, failure *status.Status) {
	if !m.config.ShowInternal && hidesText(failure.Code()) && failure.Code() != codes.Canceled {
		m.config.Logger.WarnContext(r.Context(), "a call failed", "service", method.service.Name, "method", method.path, "code", codeName(failure.Code()), "error", failure.Message())
	}
}

// shownDetails leaves out what is for operators: stack traces, and, where the text is hidden,
// details that are not of google.rpc.
func (m *Mux) shownDetails(failure *status.Status) []*anypb.Any {
	var shown []*anypb.Any
	for _, detail := range failure.Proto().GetDetails() {
		name := string(detail.MessageName())
		hidden := name == "google.rpc.DebugInfo" || hidesText(failure.Code()) && !strings.HasPrefix(name, "google.rpc.")
		if m.config.ShowInternal || !hidden {
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
	if given && wait >= 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
}

// The fields of a rate limit (draft-ietf-httpapi-ratelimit-headers), which callers get in any
// case.
var rateLimitFields = map[string]string{"ratelimit": "RateLimit", "ratelimit-policy": "RateLimit-Policy"}

// setHeaders copies the response metadata that callers may see.
func (m *Mux) setHeaders(header http.Header, got answer) {
	for _, md := range []metadata.MD{got.header, got.trailer} {
		for key, values := range md {
			name, ok := m.headers[key]
			if !ok {
				name, ok = rateLimitFields[key]
			}
			if ok {
				header[http.CanonicalHeaderKey(name)] = cleaned(values)
			}
		}
	}
}

// cleaned drops values that would end a header.
func cleaned(values []string) []string {
	var kept []string
	for _, value := range values {
		if !strings.ContainsAny(value, "\r\n\x00") {
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
