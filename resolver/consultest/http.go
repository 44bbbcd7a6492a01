package consultest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
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

// errAnswered is returned by an endpoint that has written its answer itself.
var errAnswered = errors.New("answered")

// endpoint returns what to send as JSON, or nil for an empty 200.
type endpoint func(w http.ResponseWriter, r *http.Request) (any, error)

func (s *Server) routes() *http.ServeMux {
	mux, agent, catalog := http.NewServeMux(), agentAPI{s}, catalogAPI{s}
	handle := func(method, path string, fn endpoint) { mux.Handle(path, s.wrap(fn, method)) }

	handle("PUT", "/v1/agent/service/register", agent.serviceRegister)
	handle("PUT", "/v1/agent/service/deregister/", agent.serviceDeregister)
	handle("PUT", "/v1/agent/service/maintenance/", agent.serviceMaintenance)
	handle("GET", "/v1/agent/service/", agent.service)
	handle("GET", "/v1/agent/services", agent.services)
	handle("GET", "/v1/agent/checks", agent.checks)
	handle("GET", "/v1/agent/self", agent.self)
	handle("GET", "/v1/agent/members", agent.members)
	handle("PUT", "/v1/agent/check/register", agent.checkRegister)
	handle("PUT", "/v1/agent/check/deregister/", agent.checkDeregister)
	handle("PUT", "/v1/agent/check/pass/", agent.checkUpdate)
	handle("PUT", "/v1/agent/check/warn/", agent.checkUpdate)
	handle("PUT", "/v1/agent/check/fail/", agent.checkUpdate)
	handle("PUT", "/v1/agent/check/update/", agent.checkUpdate)
	handle("GET", "/v1/agent/connect/ca/roots", agent.caRoots)
	handle("GET", "/v1/agent/connect/ca/leaf/", agent.caLeaf)
	handle("GET", "/v1/agent/health/service/id/", agent.healthByID)
	handle("GET", "/v1/agent/health/service/name/", agent.healthByName)

	handle("GET", "/v1/health/service/", catalog.healthService)
	handle("GET", "/v1/health/checks/", catalog.healthChecks)
	handle("GET", "/v1/health/node/", catalog.healthNode)
	handle("GET", "/v1/health/state/", catalog.healthState)

	handle("GET", "/v1/catalog/services", catalog.services)
	handle("GET", "/v1/catalog/service/", catalog.service)
	handle("GET", "/v1/catalog/nodes", catalog.nodes)
	handle("GET", "/v1/catalog/node/", catalog.nodeServices)
	handle("GET", "/v1/catalog/datacenters", catalog.listDatacenters)
	handle("GET", "/v1/acl/token/self", catalog.aclTokenSelf)
	handle("GET", "/v1/status/leader", catalog.statusLeader)
	handle("GET", "/v1/status/peers", catalog.statusPeers)

	intentions := intentionsAPI{s}
	handle("GET", "/v1/connect/intentions/match", intentions.match)
	handle("GET", "/v1/connect/ca/roots", agent.caRoots)

	configs := configAPI{s}
	handle("PUT", "/v1/config", configs.write)
	mux.Handle("/v1/config/", s.wrap(configs.named, "GET", "DELETE"))
	mux.Handle("/v1/discovery-chain/", s.wrap(configs.chain, "GET", "POST"))

	mux.Handle("/v1/kv/", s.wrap(kvAPI{s}.serve, "GET", "PUT", "DELETE"))
	mux.HandleFunc("/", unknownPath)
	return mux
}

// answer writes the agent's own answer.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	unprintable := func(c rune) bool { return !unicode.IsPrint(c) }
	if strings.ContainsFunc(r.URL.Path, unprintable) {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if other := s.peerFor(r); other != nil {
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

// wrap makes a handler of an endpoint with the given methods.
func (s *Server) wrap(fn endpoint, methods ...string) http.Handler {
	allow := "OPTIONS," + strings.Join(methods, ",")
	allowed := "," + allow + ","
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeCommon(w.Header())
		if r.Method == http.MethodOptions {
			w.Header().Set("Allow", allow)
			write(w, http.StatusOK, typeEmpty, nil)
			return
		}
		if !strings.Contains(allowed, ","+r.Method+",") {
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
	case errors.Is(err, errAnswered), errors.Is(err, errRetry):
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
	_, _ = w.Write(body) // a closed connection is not an error here
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
	if !strings.HasPrefix(r.URL.Path, "/v1/kv/") && !strings.HasPrefix(r.URL.Path, "/v1/acl/") && !strings.HasPrefix(r.URL.Path, "/v1/config/") {
		h.Set("X-Consul-Effective-Consistency", opts.consistency)
	}
	if opts.cached && (strings.HasPrefix(r.URL.Path, "/v1/health/service/") || strings.HasPrefix(r.URL.Path, "/v1/discovery-chain/")) {
		h.Set("X-Cache", "MISS")
	}
}

// readBody reads a body as far as it may be long.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, tooLargeError()
	}
	return body, err
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

// Limits of a blocking query, and the part of its wait that is added at random.
// https://developer.hashicorp.com/consul/api-docs/features/blocking
const (
	defaultWait    = 5 * time.Minute
	maxWait        = 10 * time.Minute
	jitterFraction = 16
)

// queryOptions are what every read of the catalog, health and KV accepts.
type queryOptions struct {
	index       uint64
	wait        time.Duration
	consistency string
	cached      bool
}

func parseQuery(r *http.Request) (queryOptions, error) {
	q := r.URL.Query()
	opts := queryOptions{consistency: "leader", cached: q.Has("cached")}
	if maxStale := q.Get("max_stale"); maxStale != "" {
		if d, err := time.ParseDuration(maxStale); err != nil {
			return opts, badRequest("Invalid max_stale value %q", maxStale)
		} else if d > 0 {
			opts.consistency = "stale"
		}
	}
	if q.Has("stale") {
		opts.consistency = "stale"
	}
	if q.Has("consistent") {
		if opts.consistency == "stale" {
			return opts, badRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
		}
		if opts.cached {
			return opts, badRequest("Cannot specify ?cached with ?consistent, conflicting semantics.")
		}
		opts.consistency = "consistent"
	}
	if wait := q.Get("wait"); wait != "" {
		d, err := time.ParseDuration(wait)
		if err != nil {
			return opts, badRequest("Invalid wait time")
		}
		opts.wait = d
	}
	if index := q.Get("index"); index != "" {
		n, err := strconv.ParseUint(index, 10, 64)
		if err != nil {
			return opts, badRequest("Invalid index")
		}
		opts.index = n
	}
	return opts, nil
}

// timeout is how long the query may block, with the jitter that spreads clients.
func (o queryOptions) timeout() time.Duration {
	wait := min(o.wait, maxWait)
	if wait <= 0 {
		wait = defaultWait
	}
	return wait + rand.N(wait/jitterFraction+1)
}

// block calls look, with the state locked, until it returns true, the timeout passes, or ctx
// ends. With a timeout of zero it calls look once. The error is errRetry.
func (s *Server) block(ctx context.Context, timeout time.Duration, look func(*state) bool) error {
	v := s.exchangeOf(ctx)
	expired, stop := v.timer(timeout)
	defer stop()
	for {
		s.mu.Lock()
		enough, changed := look(s.st), s.st.changed
		s.mu.Unlock()
		if v.mustRetry() { // comes first: the change that was seen may be that of a fault
			return errRetry
		}
		if enough || expired == nil {
			return nil
		}
		select {
		case <-changed:
		case <-v.changed.Done():
		case <-expired:
			return nil
		case <-ctx.Done():
			panic(http.ErrAbortHandler) // the client has closed the connection, or the agent was killed
		}
	}
}

// read answers a query: it calls look until the index it returns has passed the
// one in the request, then writes the headers of a read. An index that went
// backwards keeps blocking, as in Consul: the client must reset it.
func (s *Server) read(w http.ResponseWriter, r *http.Request, look func(*state) (index uint64)) error {
	return s.readFound(w, r, func(st *state) (uint64, bool) { return look(st), true })
}

// readFound is read for things that may not exist: a query keeps blocking while its thing
// does not exist, whatever else changes.
func (s *Server) readFound(w http.ResponseWriter, r *http.Request, look func(*state) (uint64, bool)) error {
	missed := false
	return s.readNew(w, r, func(st *state) (index uint64, same bool) {
		index, found := look(st)
		same, missed = missed && !found, !found
		return index, same
	})
}

// readNew is read with a look that reports, too, whether the answer is the same as when it
// looked before, so that its index ends no query.
func (s *Server) readNew(w http.ResponseWriter, r *http.Request, look func(*state) (index uint64, same bool)) error {
	opts, err := parseQuery(r)
	if err != nil {
		return err
	}
	if err := s.checkDatacenter(r); err != nil {
		return err
	}
	var timeout time.Duration
	if opts.index > 0 {
		timeout = opts.timeout()
	}
	var index uint64
	after, v := opts.index, s.exchangeOf(r.Context())
	err = s.block(r.Context(), timeout, func(st *state) bool {
		var same bool
		index, same = look(st)
		index = v.index(index)
		if same {
			after = index
		}
		return v.isNew(index, after)
	})
	if err != nil {
		return err
	}
	s.writeMeta(w, r, index, opts)
	return nil
}

func (s *Server) checkDatacenter(r *http.Request) error {
	if dc := datacenterOf(r.URL.Query()); dc != "" && dc != s.datacenter {
		return httpError{http.StatusInternalServerError, "No path to datacenter"}
	}
	return nil
}

var errTokenUnknown = httpError{http.StatusForbidden, "ACL not found"}

func (s *config) defaultPolicy() string {
	if s.aclEnabled {
		return "deny"
	}
	return "allow"
}

// tokenOf finds the token of a request in the places where Consul looks.
// https://developer.hashicorp.com/consul/api-docs/api-structure#authentication
func tokenOf(r *http.Request) string {
	if token := r.URL.Query().Get("token"); token != "" {
		return token
	}
	if token := r.Header.Get("X-Consul-Token"); token != "" {
		return token
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	token, _, _ = strings.Cut(strings.TrimSpace(token), " ")
	return token
}

// allowed reports whether the request may do everything, or nothing.
func (s *config) allowed(r *http.Request) (bool, error) {
	token := tokenOf(r)
	switch {
	case !s.aclEnabled, token != "" && token == s.managementToken:
		return true, nil
	case token == "", s.otherTokens[token]:
		return false, nil
	default:
		return false, errTokenUnknown
	}
}

// require rejects a request whose token lacks a permission on something, with Consul's text.
func (s *config) require(r *http.Request, permission, on string) error {
	return s.requireRight(r, fmt.Sprintf("'%s' on %q", permission, on))
}

// requireRight is require for any right.
func (s *config) requireRight(r *http.Request, right string) error {
	allowed, err := s.allowed(r)
	if allowed || err != nil {
		return err
	}
	text := fmt.Sprintf("Permission denied: anonymous token lacks permission %s. "+
		"The anonymous token is used implicitly when a request does not specify a token.", right)
	if token := tokenOf(r); token != "" {
		text = fmt.Sprintf("Permission denied: token with AccessorID '%s' lacks permission %s", uuidOf("token "+token), right)
	}
	return httpError{http.StatusForbidden, text}
}

// filter reports whether a list must be returned empty. If it had n items, a header says so,
// but only to requests with a token.
func (s *config) filter(w http.ResponseWriter, r *http.Request, n int) bool {
	if allowed, _ := s.allowed(r); allowed {
		return false
	}
	if n > 0 && tokenOf(r) != "" {
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	return true
}
