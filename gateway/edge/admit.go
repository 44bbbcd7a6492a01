package edge

import (
	"net/http"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/internal/httpform"
)

// Reasons why a request did not reach the handler.
const (
	refusedForm    = "form"    // what nobody may send
	refusedOrigin  = "origin"  // of another site that CORS does not allow
	refusedURL     = "url"     // too long
	refusedBody    = "body"    // too long, as it says itself
	refusedLimit   = "limit"   // a limit
	refusedKey     = "key"     // lacks the key of a limit
	refusedToken   = "token"   // not valid, or not to be verified
	refusedSubject = "subject" // nobody
)

var reasons = []string{refusedForm, refusedOrigin, refusedURL, refusedBody, refusedLimit, refusedKey, refusedToken, refusedSubject}

// admit passes a request on to next, or answers it.
func (e *Edge) admit(next http.Handler, w http.ResponseWriter, r *http.Request) {
	rec := recordOf(r.Context())
	rec.peer = e.proxies.peerOf(r)
	rec.caller.Address = e.proxies.address(rec.peer, r)
	// Addresses are counted before tokens are verified, which costs more than to refuse.
	if !e.check(rec, w, r) || !e.limits.charge(false, rec, w, r) || !e.authentication.authenticate(rec, w, r) || !e.limits.charge(true, rec, w, r) {
		return
	}
	if e.config.Fields {
		setFields(w.Header(), rec.checks)
	}
	if e.config.MaxBody > 0 && r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(innermost(w), r.Body, e.config.MaxBody)
	}
	status := http.StatusInternalServerError // of a panic
	defer func() { rec.refund(status) }()
	next.ServeHTTP(w, r)
	status = http.StatusOK
	if answer, ok := w.(*response); ok && answer.status != 0 {
		status = answer.status
	}
}

// innermost is net/http's own writer, which closes connections whose body is too long.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapped.Unwrap()
	}
}

// check refuses what nobody may send. It answers, and returns false, then.
func (e *Edge) check(rec *record, w http.ResponseWriter, r *http.Request) bool {
	form := httpform.Check(r)
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		rec.refused = refusedForm
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Code: "UNIMPLEMENTED", Detail: "the method " + r.Method + " is not served"})
	case len(r.RequestURI) > e.config.MaxURL:
		rec.refused = refusedURL
		problem.Write(w, problem.Problem{Status: http.StatusRequestURITooLong, Code: "INVALID_ARGUMENT", Detail: "the URL has more than " + formatUint(uint64(e.config.MaxURL)) + " bytes"})
	case form != nil:
		rec.refused = refusedForm
		problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Code: "INVALID_ARGUMENT", Detail: form.Error()})
	case e.passedOn.size(r.Header) > maxForwarded:
		rec.refused = refusedForm
		problem.Write(w, problem.Problem{Status: http.StatusRequestHeaderFieldsTooLarge, Code: "INVALID_ARGUMENT", Detail: "the headers that are passed on have more than " + formatUint(maxForwarded) + " bytes"})
	case e.config.MaxBody > 0 && r.ContentLength > e.config.MaxBody:
		rec.refused = refusedBody
		w.Header().Set("Connection", "close") // rather than to read it
		problem.Write(w, problem.Problem{Status: http.StatusRequestEntityTooLarge, Code: "INVALID_ARGUMENT", Detail: "the body has more than " + formatUint(uint64(e.config.MaxBody)) + " bytes"})
	case e.origins.refuses(r):
		rec.refused = refusedOrigin
		problem.Write(w, problem.Problem{Status: http.StatusForbidden, Code: "PERMISSION_DENIED", Detail: "a page of another site sent this: only origins that CORS names may"})
	default:
		originForm(r)
		return true
	}
	return false
}

// originForm rewrites a request in absolute form, whose host net/http has taken for r.Host, so
// that no handler takes it for the address to call.
func originForm(r *http.Request) {
	if r.URL.Host == "" && r.URL.Scheme == "" {
		return
	}
	u := *r.URL
	u.Scheme, u.Host, u.User = "", "", nil
	r.URL, r.RequestURI = &u, u.RequestURI()
}
