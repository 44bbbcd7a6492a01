package consultest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxQueries bounds the memory of Queries in an agent that runs for long.
const maxQueries = 16384

// Server is one agent. All methods are safe for concurrent use.
type Server struct {
	registry
	mux *http.ServeMux

	// The lock of the registry also guards these:
	reachable bool
	intercept func(http.ResponseWriter, *http.Request) bool
	queries   []Query
	peers     map[string]*Server // of other datacenters, by name
	listeners []*listener
	life      context.Context // ends when the agent is killed or cut off
	kill      context.CancelFunc

	faults faultSet
	conns  connections
	ended  chan struct{} // closed by Close
}

// New returns an agent without services or listeners. Close it.
func New(opts ...Option) *Server {
	s := &Server{registry: registry{config: newConfig(opts), started: time.Now()}, reachable: true, ended: make(chan struct{})}
	s.st = newState(&s.config)
	s.faults.registry = &s.registry
	s.conns = connections{limit: s.maxConnections, from: make(map[string]int)}
	s.mux = s.routes()
	s.life, s.kill = context.WithCancel(context.Background())
	s.faults.notify()
	return s
}

// Close stops the agent: checks end, listeners close, open queries fail as if
// the process had been killed. It waits for all of them, and may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		close(s.ended)
	}
	s.closed = true
	s.kill()
	s.stopAllChecks()
	listeners := s.listeners
	s.listeners = nil
	s.mu.Unlock()
	s.faults.end()
	for _, l := range listeners {
		_ = l.server.Close()
	}
	s.work.Wait()
}

// Restart simulates an agent that was killed and started empty: it has no services, checks,
// config entries or keys, indexes start low again, and open queries and connections break. Faults, Queries,
// joined agents and the CA, which is the servers', stay; leaves are signed again.
func (s *Server) Restart() {
	s.cut(func() {
		s.stopAllChecks()
		s.st = newState(&s.config)
		clear(s.ca.leaves)
		if s.ca.roots != nil {
			s.ca.index = s.st.next()
		}
	})
}

// SetReachable disconnects the agent from its clients, or reconnects it. While disconnected it
// keeps its state, its checks go on, requests through Transport fail with
// "connection refused", and connections to its listeners are dropped.
func (s *Server) SetReachable(reachable bool) {
	if !reachable {
		s.cut(func() { s.reachable = false })
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reachable = true
}

// cut makes a change, with s.mu held, at which every open request and connection breaks.
func (s *Server) cut(change func()) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	change()
	kill, listeners := s.kill, s.listeners
	s.life, s.kill = context.WithCancel(context.Background())
	s.mu.Unlock()
	for _, l := range listeners {
		l.drop() // before the handlers end, which would close connections in their own way
	}
	kill()
}

// Intercept calls answer with every request before the agent; the agent ignores those for
// which it returns true. Within answer, s.ServeHTTP(w, r) writes the agent's own answer,
// which may be altered on its way. Nil ends the interception. answer must return when the
// request's context ends. Injected faults apply before answer is called, and alter what it
// writes. When they change, answer is called again for a query that waits in s.ServeHTTP: it
// is left by a panic, as with [http.ErrAbortHandler].
func (s *Server) Intercept(answer func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = answer
}

// Queries returns the latest requests for /v1/health/service, oldest first, up
// to some ten thousand of them. A blocking query is there once it has arrived.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.queries...)
}

// record stores r if it reads the health of a service. The caller holds s.mu.
func (s *Server) record(r *http.Request, refused bool) {
	service, ok := strings.CutPrefix(r.URL.Path, "/v1/health/service/")
	if !ok {
		return
	}
	if len(s.queries) == maxQueries {
		s.queries = append(s.queries[:0], s.queries[maxQueries/2:]...)
	}
	opts, _ := parseQuery(r) // an invalid one is still a query
	s.queries = append(s.queries, Query{
		Time: time.Now(), Service: service, Index: opts.index, Wait: opts.wait,
		RawQuery: r.URL.RawQuery, HasToken: tokenOf(r) != "", Refused: refused,
	})
}

// ServeHTTP answers one request of Consul's HTTP API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v := s.exchangeOf(r.Context()); v != nil {
		if s.answer(w, r); v.retry {
			panic(errRetry) // an interceptor must not take this for the answer
		}
		return
	}
	s.mu.Lock()
	if s.closed || !s.reachable {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.record(r, false)
	life, intercept := s.life, s.intercept
	s.work.Add(1)
	s.mu.Unlock()
	defer s.work.Done()

	v := &exchange{server: s, client: w}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), exchangeKey{s}, v))
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	v.request = r.WithContext(ctx)
	v.serve(func(w http.ResponseWriter) {
		if intercept == nil || !intercept(w, v.request) {
			s.answer(w, v.request)
		}
	})
	if life.Err() != nil {
		panic(http.ErrAbortHandler) // a killed agent finishes no answer
	}
}

// Register adds an instance, or replaces the one with the same id, as a PUT to
// /v1/agent/service/register does. A check that exists keeps its state, and checks that svc
// does not name stay. The error is the agent's answer.
func (s *Server) Register(svc Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.register(svc, false)
}

// Deregister removes an instance and its checks.
func (s *Server) Deregister(serviceID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deregister(serviceID)
}

// SetStatus sets the state of the checks of an instance; one without checks gets a check for
// that. The state stays until a heartbeat, a missed one or a probe changes it.
func (s *Server) SetStatus(serviceID, status string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setServiceStatus(serviceID, status)
}

// SetIntentions writes who may call destination, as `consul config write` does: sources is
// the JSON list that a service-intentions config entry has as Sources, such as
// [{"Name":"web","Action":"allow"}]. "" removes the entry. The error is the agent's answer.
func (s *Server) SetIntentions(destination, sources string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sources == "" {
		s.st.removeIntentions(destination)
		return nil
	}
	entry := intentionEntry{entryHead: entryHead{intentionsKind, destination}}
	if err := json.Unmarshal([]byte(sources), &entry.Sources); err != nil {
		return badRequest("Request decode failed: %v", err)
	}
	return s.st.putIntentions(entry)
}

// WriteConfig writes a config entry of kind service-defaults, service-router, service-splitter,
// service-resolver, proxy-defaults or service-intentions, as `consul config write` does. entry is its JSON, as a
// string or []byte, or a value that [encoding/json] makes that of, such as Consul's
// api.ServiceRouterConfigEntry:
//
//	err := agent.WriteConfig(`{"Kind": "service-splitter", "Name": "catalog", "Splits": [
//		{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}]}`)
//
// It shows in /v1/discovery-chain/. The error is the agent's answer, such as that of a subset
// that no service-resolver has, or of a router before a service-defaults entry says that the
// service speaks grpc, http2 or http.
func (s *Server) WriteConfig(entry any) error {
	text, err := jsonOf(entry)
	if err != nil {
		return err
	}
	decoded, err := decodeEntry(text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.st.putEntry(decoded, nil)
	return err
}

func jsonOf(entry any) ([]byte, error) {
	switch entry := entry.(type) {
	case string:
		return []byte(entry), nil
	case []byte:
		return entry, nil
	}
	return json.Marshal(entry)
}

// DeleteConfig deletes a config entry, as `consul config delete` does. One that does not exist
// is no error; one that others need is.
func (s *Server) DeleteConfig(kind, name string) error {
	if err := checkKind(kind, http.StatusBadRequest); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.st.removeEntry(kind, name, nil)
	return err
}

// TrustDomain is that of the agent's CA, until [Server.ReplaceCA].
func (s *Server) TrustDomain() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.authority().trustDomain
}

// Flap sets the checks of an instance to HealthCritical, after every to HealthPassing, and
// so on, until Close or until stop is called, which leaves it passing. An instance that is not
// registered flaps once it is, so a mistyped id is not an error. stop may be called more
// than once.
func (s *Server) Flap(serviceID string, every time.Duration) (stop func()) {
	if every <= 0 {
		panic(fmt.Sprintf("consultest: an instance cannot flap every %v: want more than 0", every))
	}
	ticker := time.NewTicker(every)
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ticker.Stop()
		return cancel
	}
	_ = s.setServiceStatus(serviceID, HealthCritical)
	stopped := make(chan struct{})
	s.work.Go(func() {
		defer close(stopped)
		defer ticker.Stop()
		s.flap(ctx, serviceID, ticker.C)
	})
	return sync.OnceFunc(func() {
		cancel()
		<-stopped
		_ = s.SetStatus(serviceID, HealthPassing)
	})
}

func (s *Server) flap(ctx context.Context, serviceID string, tick <-chan time.Time) {
	for next, then := HealthPassing, HealthCritical; ; next, then = then, next {
		select {
		case <-tick:
			_ = s.SetStatus(serviceID, next) // it may not be registered now
		case <-ctx.Done():
			return
		case <-s.ended:
			return
		}
	}
}

// Inject applies the faults to the requests that they match, in the order given, until lift is
// called. A fault with Times ends after as many requests. Several may be in force at once.
// lift may be called more than once.
//
// A blocking query that waits and matches a fault is answered with it now. When a fault that
// alters answers is lifted, waiting queries that match it are answered too, without it; those
// that it delays or stalls go on to the agent.
func (s *Server) Inject(faults ...Fault) (lift func()) {
	var rules []*rule
	for _, f := range faults {
		rules = append(rules, &rule{steps: []Fault{f}, lasts: f.times == 0})
	}
	s.faults.inject(rules...)
	return func() { s.faults.lift(rules) }
}

// Script applies its first step to the first request that it matches, then the second to the
// next, and so on; a step with Times counts as that many. A query that waits when Script is
// called comes first, and one that matches a step other than Pass is answered without blocking.
// done is closed when the last step was answered, and with Heal and Close.
func (s *Server) Script(steps ...Fault) (done <-chan struct{}) {
	r := &rule{steps: slices.Clone(steps)}
	s.faults.inject(r)
	return r.done
}

// Heal lifts all faults and ends all scripts.
func (s *Server) Heal() {
	s.faults.mu.Lock()
	rules := slices.Clone(s.faults.rules)
	s.faults.mu.Unlock()
	s.faults.lift(rules)
}

// Join connects datacenters, each with each: a request to one of the agents with the ?dc= of
// another is answered there, with that one's catalog, keys, indexes,
// tokens and faults. Faults that alter indexes act there only. One that is
// unreachable or closed answers 500, as Consul does when the servers of a datacenter
// do not respond. Two agents of the same datacenter cannot be joined.
func (s *Server) Join(others ...*Server) error {
	all := append([]*Server{s}, others...)
	names := make(map[string]bool)
	for _, one := range all {
		if names[one.datacenter] {
			return fmt.Errorf("consultest: cannot join two agents of datacenter %q: name one with WithDatacenter", one.datacenter)
		}
		names[one.datacenter] = true
	}
	for _, one := range all {
		for _, other := range all {
			if one != other {
				one.addPeer(other)
			}
		}
	}
	return nil
}

func (s *Server) addPeer(other *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers == nil {
		s.peers = make(map[string]*Server)
	}
	s.peers[other.datacenter] = other
}

// Listen serves the agent on a TCP address until Close and returns the address
// with the port filled in; "127.0.0.1:0" picks a free one. Anything but loopback
// needs WithACL, since its clients can make it open connections.
func (s *Server) Listen(address string) (string, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", fmt.Errorf("consultest: bad listen address %q: want host:port, such as 127.0.0.1:8500: %w", address, err)
	}
	if !tcp.IP.IsLoopback() && !s.aclEnabled {
		return "", fmt.Errorf("consultest: listen address %q is not loopback: use 127.0.0.1 or turn on WithACL", address)
	}
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("consultest: cannot listen on %s (is another agent running there? stop it or take another port, 0 for a free one): %w", address, err)
	}
	l := &listener{Listener: inner, owner: s, conns: make(map[*conn]struct{})}
	// No WriteTimeout: a blocking query may rightly take ten minutes.
	l.server = &http.Server{Handler: l, ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout: 15 * time.Minute, IdleTimeout: 2 * time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState:   func(c net.Conn, state http.ConnState) { c.(*conn).owe(state == http.StateActive) }}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = inner.Close()
		return "", fmt.Errorf("consultest: cannot listen on %s: the server is closed", address)
	}
	s.listeners = append(s.listeners, l)
	s.work.Go(func() { _ = l.server.Serve(l) })
	return inner.Addr().String(), nil
}

func (s *Server) isReachable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reachable
}

// Connections returns how many connections to the agent's listeners are open, and the
// most at one time, including those over a limit. Transport has none.
func (s *Server) Connections() (open, most int) {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	return s.conns.open, s.conns.most
}

// Transport returns a round tripper that reaches the agent, whatever the host
// in the URL, with no socket: its goroutines block on channels only, so it works
// in a testing/synctest bubble. Answers stream. As with [http.Transport],
// the end of the request's context ends the request at once, here and in the agent.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

// detached removes the exchange that ctx may belong to, as a socket would.
func (s *Server) detached(ctx context.Context) context.Context {
	return context.WithValue(context.WithValue(ctx, connKey{}, nil), exchangeKey{s}, nil)
}

// exchangeOf returns the exchange of a request by its context.
func (s *Server) exchangeOf(ctx context.Context) *exchange {
	v, _ := ctx.Value(exchangeKey{s}).(*exchange)
	return v
}

func (s *Server) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reachable && !s.closed
}

// datacenters returns its own, then the others.
func (s *Server) datacenters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{s.datacenter}, slices.Sorted(maps.Keys(s.peers))...)
}

// datacenterOf returns the datacenter in a query, or "".
func datacenterOf(q url.Values) string {
	if dc := q.Get("datacenter"); dc != "" {
		return dc
	}
	return q.Get("dc")
}

// peerFor returns the agent of another datacenter that a request is for.
// Endpoints of the agent itself have no datacenter.
func (s *Server) peerFor(r *http.Request) *Server {
	if strings.HasPrefix(r.URL.Path, "/v1/agent/") || r.URL.Path == "/v1/catalog/datacenters" {
		return nil
	}
	dc := datacenterOf(r.URL.Query())
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[dc]
}

// forward lets other answer. Errors between the datacenters have Consul's text.
func (s *Server) forward(other *Server, w http.ResponseWriter, r *http.Request) {
	v := s.exchangeOf(r.Context())
	s.writeCommon(w.Header())
	for {
		if !other.isUp() {
			text := "rpc error getting client: failed to get conn: dial tcp 127.0.0.1:0->" + other.nodeAddress + ":8300: connect: connection refused"
			write(w, http.StatusInternalServerError, typeText, []byte(text))
			return
		}
		rec, broken := v.forward(other, r)
		switch {
		case !broken:
			maps.Copy(w.Header(), rec.header)
			w.WriteHeader(rec.status)
			_, _ = w.Write(rec.body.Bytes())
		case r.Context().Err() != nil:
			panic(http.ErrAbortHandler)
		case v.changed.Err() != nil && !v.mustRetry():
			continue
		case !v.retry:
			write(w, http.StatusServiceUnavailable, typeText, []byte("error reading from server: EOF"))
		}
		return
	}
}

// forward sends the request to other until it is answered, the connection between the
// datacenters breaks, or the faults here change.
func (v *exchange) forward(other *Server, r *http.Request) (rec *recorder, broken bool) {
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), connKey{}, nil)) // other must not break the client's connection
	defer cancel()
	defer context.AfterFunc(v.changed, cancel)()
	rec = &recorder{header: make(http.Header), status: http.StatusOK}
	r = r.Clone(ctx)
	if v.noBlock {
		q := r.URL.Query()
		q.Del("index")
		r.URL.RawQuery = q.Encode()
	}
	err := serve(other, rec, r)
	return rec, err != nil
}
