package consultest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// faultSet holds the faults that are injected and not lifted. Its lock is taken before that
// of the registry, whose indexes it raises.
type faultSet struct {
	registry *registry

	mu      sync.Mutex
	rules   []*rule
	changed context.Context // ends when a rule comes or goes
	change  context.CancelFunc
}

// rule is a fault that lasts, or what is left of a script.
type rule struct {
	steps  []Fault
	lasts  bool
	lower  uint64        // how far indexes fall that go backwards
	open   int           // requests that match it and are not answered
	lifted chan struct{} // closed with the fault
	done   chan struct{} // closed when it is lifted or its last step was answered
}

func (fs *faultSet) inject(rules ...*rule) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.registry.mu.Lock()
	defer fs.registry.mu.Unlock()
	for _, r := range rules {
		r.lower = fs.registry.st.index / 2
		r.lifted, r.done = make(chan struct{}), make(chan struct{})
		if fs.registry.closed || len(r.steps) == 0 {
			close(r.done)
			continue
		}
		fs.rules = append(fs.rules, r)
		if r.lasts {
			fs.raiseIndex(r.steps[0])
		}
	}
	fs.notify()
}

func (fs *faultSet) lift(rules []*rule) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.registry.mu.Lock()
	defer fs.registry.mu.Unlock()
	for _, r := range rules {
		if !fs.remove(r) {
			continue
		}
		close(r.lifted)
		if r.lasts {
			fs.raiseIndex(r.steps[0])
		}
	}
	fs.notify()
}

// raiseIndex raises the indexes if f changes lists. The caller holds the lock of the registry.
func (fs *faultSet) raiseIndex(f Fault) {
	if f.raisesIndex() {
		fs.registry.st.raiseIndex(f.service)
	}
}

// end removes all rules. Requests that they delay end with the agent.
func (fs *faultSet) end() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for len(fs.rules) > 0 {
		fs.remove(fs.rules[0])
	}
}

// notify makes waiting requests check the rules.
func (fs *faultSet) notify() {
	if fs.change != nil {
		fs.change()
	}
	fs.changed, fs.change = context.WithCancel(context.Background())
}

func (fs *faultSet) remove(r *rule) bool {
	i := slices.Index(fs.rules, r)
	if i < 0 {
		return false
	}
	fs.rules = slices.Delete(fs.rules, i, i+1)
	close(r.done)
	return true
}

// next returns the fault that matches a request.
func (r *rule) next(req *http.Request) (Fault, bool) {
	if len(r.steps) == 0 || !r.steps[0].matches(req) {
		return Fault{}, false
	}
	return r.steps[0], true
}

// take consumes a step of a script.
func (r *rule) take() {
	r.open++
	if r.lasts {
		return
	}
	if r.steps[0].times--; r.steps[0].times <= 0 {
		r.steps = r.steps[1:]
	}
}

// leave ends a match. What a step of a script has changed is undone.
func (fs *faultSet) leave(m match) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	m.rule.open--
	if m.rule.lasts {
		return
	}
	fs.registry.mu.Lock()
	fs.raiseIndex(m.fault)
	fs.registry.mu.Unlock()
	if m.rule.open == 0 && len(m.rule.steps) == 0 {
		fs.remove(m.rule)
	}
}

// exchange is one request to the agent and its answer. A query that waits is answered anew
// when a fault is injected that matches it, or one is lifted that would alter its answer.
type exchange struct {
	server   *Server
	client   http.ResponseWriter
	request  *http.Request
	matches  []match
	changed  context.Context // of the rules, as of matches
	waited   bool            // has been answered anew already
	noBlock  bool            // is to be answered without blocking
	retry    bool            // stopped waiting, to be answered anew
	deadline time.Time       // of its blocking
}

// match is a fault that matches a request.
type match struct {
	exchange *exchange
	rule     *rule
	fault    Fault
	seen     bool // its arrive effects have acted
}

// errRetry unwinds a query that is answered anew.
var errRetry = errors.New("the faults have changed")

// exchangeKey is the context key of a request's exchange.
type exchangeKey struct{ *Server }

// serve repeats until the request is answered.
func (v *exchange) serve(answer func(http.ResponseWriter)) {
	defer v.leave()
	for {
		v.matchFaults()
		if v.round(answer); !v.retry {
			return
		}
		v.retry, v.waited = false, true
		clear(v.client.Header())
	}
}

func (v *exchange) leave() {
	for _, m := range v.matches {
		v.server.faults.leave(m)
	}
}

// matchFaults updates the matches of the request.
func (v *exchange) matchFaults() {
	fs := &v.server.faults
	fs.mu.Lock()
	defer fs.mu.Unlock()
	v.changed = fs.changed
	v.matches = slices.DeleteFunc(v.matches, func(m match) bool {
		v.noBlock = v.noBlock || m.lifted() && m.fault.alters()
		return m.lifted()
	})
	for _, r := range fs.rules {
		fault, ok := r.next(v.request)
		if !ok || v.hasMatched(r) {
			continue
		}
		r.take()
		v.matches = append(v.matches, match{exchange: v, rule: r, fault: fault})
		if len(fault.effects) > 0 && (v.waited || !r.lasts) {
			v.noBlock = true
		}
		if !r.lasts {
			v.server.mu.Lock()
			fs.raiseIndex(fault)
			v.server.mu.Unlock()
		}
	}
}

// mustRetry reports whether the request must be answered anew.
func (v *exchange) mustRetry() bool {
	if v.changed.Err() == nil {
		return false
	}
	fs := &v.server.faults
	fs.mu.Lock()
	defer fs.mu.Unlock()
	v.retry = slices.ContainsFunc(fs.rules, func(r *rule) bool {
		_, ok := r.next(v.request)
		return ok && !v.hasMatched(r)
	}) || slices.ContainsFunc(v.matches, func(m match) bool { return m.lifted() && m.fault.alters() })
	v.changed = fs.changed
	return v.retry
}

func (v *exchange) hasMatched(r *rule) bool {
	return slices.ContainsFunc(v.matches, func(m match) bool { return m.rule == r })
}

func (m *match) lifted() bool {
	select {
	case <-m.rule.lifted:
		return true
	default:
		return false
	}
}

// round tries to answer once.
func (v *exchange) round(answer func(http.ResponseWriter)) {
	if len(v.matches) == 0 {
		answered(answer, v.client)
		return
	}
	v.readBody()
	rec := &recorder{header: make(http.Header), status: http.StatusOK}
	if !v.arrive(rec) {
		if answered(answer, rec); v.retry {
			return
		}
		rec.alter(v.effects())
	}
	v.deliver(rec)
}

// answered calls answer, which a query to be answered anew leaves by a panic.
func answered(answer func(http.ResponseWriter), w http.ResponseWriter) {
	defer func() {
		if p := recover(); p != nil && p != errRetry {
			panic(p)
		}
	}()
	answer(w)
}

// arrive applies the faults that act before the agent; each acts once.
func (v *exchange) arrive(rec *recorder) (answered bool) {
	for i := range v.matches {
		m := &v.matches[i]
		if m.seen {
			continue
		}
		m.seen = true
		for _, e := range m.fault.effects {
			if e.arrive != nil && e.arrive(m, rec) {
				return true
			}
		}
	}
	return false
}

// effects returns those of the faults that were not lifted meanwhile.
func (v *exchange) effects() []effect {
	var all []effect
	for _, m := range v.matches {
		if !m.lifted() {
			all = append(all, m.fault.effects...)
		}
	}
	return all
}

// index returns the index to send, which faults may alter.
func (v *exchange) index(index uint64) uint64 {
	shown := max(index, 1) // 0 would make clients spin
	for _, m := range v.matches {
		for _, e := range m.fault.effects {
			if e.index != nil && !m.lifted() {
				shown = e.index(shown, m.rule.lower)
			}
		}
	}
	return shown
}

// isNew reports whether an index ends a query that waits beyond after. A lower one does
// not, as in Consul, unless a fault has lowered it.
func (v *exchange) isNew(shown, after uint64) bool {
	return shown > after ||
		shown < after && v.find(func(e effect) bool { return e.index != nil }) != nil
}

// readBody buffers the body, so that net/http detects that the client has closed the connection
// while the request is delayed.
func (v *exchange) readBody() {
	if v.request.Body == nil || v.request.Body == http.NoBody {
		return
	}
	body, err := io.ReadAll(io.LimitReader(v.request.Body, maxBody+1))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	v.request.Body = io.NopCloser(bytes.NewReader(body))
}

// wait ends with the timer, which may be nil, and with the fault.
func (m *match) wait(timer *time.Timer) {
	var expired <-chan time.Time
	if timer != nil {
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-expired:
	case <-m.rule.lifted:
	case <-m.exchange.request.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// timer limits the blocking of a query, all rounds together. It is nil for a request that does
// not block.
func (v *exchange) timer(timeout time.Duration) (expired <-chan time.Time, stop func()) {
	if timeout <= 0 || v.noBlock {
		return nil, func() {}
	}
	if v.deadline.IsZero() {
		v.deadline = time.Now().Add(timeout)
	}
	timer := time.NewTimer(time.Until(v.deadline))
	return timer.C, func() { timer.Stop() }
}

// pieces is how many a slow body comes in.
const pieces = 10

// recorder buffers an answer until faults have altered it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
	begun  bool
}

func (rec *recorder) Header() http.Header { return rec.header }

func (rec *recorder) WriteHeader(status int) {
	if !rec.begun && status >= 200 {
		rec.status, rec.begun = status, true
	}
}

func (rec *recorder) Write(p []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	return rec.body.Write(p)
}

// Flush does nothing: the answer is sent when it is complete.
func (rec *recorder) Flush() {}

func (rec *recorder) alter(effects []effect) {
	for _, e := range effects {
		if e.header != nil {
			e.header(rec.header)
		}
		if e.body != nil && rec.status == http.StatusOK {
			changed := e.body(bytes.Clone(rec.body.Bytes()))
			rec.body.Reset()
			rec.body.Write(changed)
		}
	}
}

// deliver sends the recorded answer, as fast and as far as the faults allow.
func (v *exchange) deliver(rec *recorder) {
	body := rec.body.Bytes()
	maps.Copy(v.client.Header(), rec.header)
	v.client.Header().Set("Content-Length", strconv.Itoa(len(body)))
	v.client.WriteHeader(rec.status)
	cut := v.find(func(e effect) bool { return e.cut }) != nil
	if cut {
		body = body[:len(body)/2]
	}
	if slow := v.find(func(e effect) bool { return e.drip > 0 }); slow != nil {
		slow.drip(body)
	} else {
		_, _ = v.client.Write(body)
	}
	if cut {
		v.flush()
		panic(http.ErrAbortHandler)
	}
}

// find returns the first match whose fault has an effect that satisfies what, or nil.
func (v *exchange) find(what func(effect) bool) *match {
	for i := range v.matches {
		if v.matches[i].fault.has(what) {
			return &v.matches[i]
		}
	}
	return nil
}

func (v *exchange) flush() { _ = http.NewResponseController(v.client).Flush() }

// drip sends the body in pieces; when the fault is lifted the rest is sent at once.
func (m *match) drip(body []byte) {
	var whole time.Duration
	for _, e := range m.fault.effects {
		whole += e.drip
	}
	m.exchange.flush()
	n := min(pieces, len(body)) // an empty body has come with its header
	for i := range n {
		m.wait(time.NewTimer(whole / time.Duration(n)))
		_, _ = m.exchange.client.Write(body[len(body)*i/n : len(body)*(i+1)/n])
		m.exchange.flush()
	}
}

// reset resets the connection of the request, if it has one.
func (v *exchange) reset() {
	if w, ok := v.client.(*responseWriter); ok {
		w.abort(&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	}
	if c, ok := v.request.Context().Value(connKey{}).(*conn); ok {
		c.breakWith("HTTP/1.1 200 OK\r\n", (*conn).reset) // half a line would look like a malformed one
	}
	panic(http.ErrAbortHandler)
}
