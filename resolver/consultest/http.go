package consultest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// version is the Consul whose answers this package gives.
const version = "1.22.7"

// Content types as Consul writes them.
const (
	typeText  = "text/plain; charset=utf-8"
	typeJSON  = "application/json"
	typeEmpty = "application/json; charset=utf-8"
)

// maxBody is Consul's limit on a KV value; no other body needs more.
const maxBody = 512 * 1024

// httpError is an answer other than 200 whose text is its body.
type httpError struct {
	status int
	text   string
}

func (e httpError) Error() string { return e.text }

func badRequest(format string, args ...any) error {
	return httpError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// errAnswered says that an endpoint wrote its whole answer itself.
var errAnswered = errors.New("answered")

// endpoint returns what to send as JSON, or nil for an empty 200.
type endpoint func(w http.ResponseWriter, r *http.Request) (any, error)

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(method, path string, fn endpoint) { mux.Handle(path, s.wrap(fn, method)) }

	handle("PUT", "/v1/agent/service/register", s.agentServiceRegister)
	handle("PUT", "/v1/agent/service/deregister/", s.agentServiceDeregister)
	handle("PUT", "/v1/agent/service/maintenance/", s.agentServiceMaintenance)
	handle("GET", "/v1/agent/service/", s.agentService)
	handle("GET", "/v1/agent/services", s.agentServices)
	handle("GET", "/v1/agent/checks", s.agentChecks)
	handle("GET", "/v1/agent/self", s.agentSelf)
	handle("GET", "/v1/agent/members", s.agentMembers)
	handle("PUT", "/v1/agent/check/register", s.agentCheckRegister)
	handle("PUT", "/v1/agent/check/deregister/", s.agentCheckDeregister)
	handle("PUT", "/v1/agent/check/pass/", s.agentCheckUpdate)
	handle("PUT", "/v1/agent/check/warn/", s.agentCheckUpdate)
	handle("PUT", "/v1/agent/check/fail/", s.agentCheckUpdate)
	handle("PUT", "/v1/agent/check/update/", s.agentCheckUpdate)
	handle("GET", "/v1/agent/health/service/id/", s.agentHealthByID)
	handle("GET", "/v1/agent/health/service/name/", s.agentHealthByName)

	handle("GET", "/v1/health/service/", s.healthService)
	handle("GET", "/v1/health/checks/", s.healthChecks)
	handle("GET", "/v1/health/node/", s.healthNode)
	handle("GET", "/v1/health/state/", s.healthState)

	handle("GET", "/v1/catalog/services", s.catalogServices)
	handle("GET", "/v1/catalog/service/", s.catalogService)
	handle("GET", "/v1/catalog/nodes", s.catalogNodes)
	handle("GET", "/v1/catalog/node/", s.catalogNode)
	handle("GET", "/v1/catalog/datacenters", s.catalogDatacenters)
	handle("GET", "/v1/acl/token/self", s.aclTokenSelf)
	handle("GET", "/v1/status/leader", s.statusLeader)
	handle("GET", "/v1/status/peers", s.statusPeers)

	mux.Handle("/v1/kv/", s.wrap(s.kvEndpoint, "GET", "PUT", "DELETE"))
	mux.HandleFunc("/", unknownPath)
	return mux
}

// answer is what the agent itself says.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	unprintable := func(c rune) bool { return !unicode.IsPrint(c) }
	if strings.ContainsFunc(r.URL.Path, unprintable) {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if other := s.elsewhere(r); other != nil {
		s.forward(other, w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func unknownPath(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/":
		write(w, http.StatusOK, typeText, []byte("Consul Agent: UI disabled. To enable, set ui_config.enabled=true in the agent configuration and restart."))
	case strings.Contains(r.URL.Path, "/v1/"):
		write(w, http.StatusNotFound, typeText, []byte("Invalid URL path: not a recognized HTTP API endpoint\n"))
	default:
		write(w, http.StatusNotFound, typeText, []byte("Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n"))
	}
}

// wrap makes a handler of an endpoint that knows the given methods.
func (s *Server) wrap(fn endpoint, methods ...string) http.Handler {
	allow := "OPTIONS," + strings.Join(methods, ",")
	known := "," + allow + ","
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeCommon(w.Header())
		if r.Method == http.MethodOptions {
			w.Header().Set("Allow", allow)
			write(w, http.StatusOK, typeEmpty, nil)
			return
		}
		if !strings.Contains(known, ","+r.Method+",") {
			w.Header().Set("Allow", allow)
			write(w, http.StatusMethodNotAllowed, typeText, []byte("method "+r.Method+" not allowed"))
			return
		}
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			write(w, http.StatusInternalServerError, "text/plain", nil)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		obj, err := fn(w, r)
		respond(w, r, obj, err)
	})
}

func respond(w http.ResponseWriter, r *http.Request, obj any, err error) {
	var refusal httpError
	switch {
	case errors.Is(err, errAnswered), errors.Is(err, errAgain):
	case errors.As(err, &refusal):
		write(w, refusal.status, typeText, []byte(refusal.text))
	case err != nil:
		write(w, http.StatusInternalServerError, typeText, []byte(err.Error()))
	case obj == nil:
		write(w, http.StatusOK, typeEmpty, nil)
	default:
		writeJSON(w, r, http.StatusOK, obj)
	}
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, obj any) {
	body, err := json.Marshal(obj)
	if r.URL.Query().Has("pretty") {
		body, err = json.MarshalIndent(obj, "", "    ")
		body = append(body, '\n')
	}
	if err != nil {
		write(w, http.StatusInternalServerError, typeText, []byte(err.Error()))
		return
	}
	write(w, status, typeJSON, body)
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is no error of ours
}

// writeCommon sets the headers of every answer.
func (s *Server) writeCommon(h http.Header) {
	h.Set("Vary", "Accept-Encoding")
	h.Set("X-Consul-Default-ACL-Policy", s.defaultPolicy())
}

// writeMeta sets the headers of a read.
func (s *Server) writeMeta(w http.ResponseWriter, r *http.Request, index uint64, opts queryOptions) {
	h := w.Header()
	h.Set("X-Consul-Index", strconv.FormatUint(index, 10))
	h.Set("X-Consul-KnownLeader", "true")
	h.Set("X-Consul-LastContact", "0")
	h.Set("X-Consul-Query-Backend", "blocking-query")
	if !strings.HasPrefix(r.URL.Path, "/v1/kv/") && !strings.HasPrefix(r.URL.Path, "/v1/acl/") {
		h.Set("X-Consul-Effective-Consistency", opts.consistency)
	}
	if opts.cached && strings.HasPrefix(r.URL.Path, "/v1/health/service/") {
		h.Set("X-Cache", "MISS")
	}
}

// decode reads a JSON body as strictly as Consul: an unknown field is an error.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return tooLargeError()
	case errors.Is(err, io.EOF), err != nil:
		return badRequest("Request decode failed: %v", err)
	}
	return nil
}

func tooLargeError() error {
	return httpError{http.StatusRequestEntityTooLarge,
		fmt.Sprintf("Request body too large. Max allowed is %d bytes.", maxBody)}
}
