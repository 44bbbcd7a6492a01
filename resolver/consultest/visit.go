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
	open   int           // requests that have met it and are not done
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
			fs.stir(r.steps[0])
		}
	}
	fs.turn()
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
			fs.stir(r.steps[0])
		}
	}
	fs.turn()
}

// stir lets indexes rise if f changes lists. The caller holds the lock of the registry.
func (fs *faultSet) stir(f Fault) {
	if f.stirs() {
		fs.registry.st.stir(f.service)
	}
}

// end forgets all rules. What they hold back is broken off by the agent's end.
func (fs *faultSet) end() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for len(fs.rules) > 0 {
		fs.remove(fs.rules[0])
	}
}

// turn makes waiting requests look at the rules again.
func (fs *faultSet) turn() {
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

// next is the fault that a request would meet.
func (r *rule) next(req *http.Request) (Fault, bool) {
	if len(r.steps) == 0 || !r.steps[0].matches(req) {
		return Fault{}, false
	}
	return r.steps[0], true
}

// take uses up a step that was met.
func (r *rule) take() {
	r.open++
	if r.lasts {
		return
	}
	if r.steps[0].times--; r.steps[0].times <= 0 {
		r.steps = r.steps[1:]
	}
}

// leave ends a meeting. Whatever a step told is true no longer.
func (fs *faultSet) leave(m meeting) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	m.rule.open--
	if m.rule.lasts {
		return
	}
	fs.registry.mu.Lock()
	fs.stir(m.fault)
	fs.registry.mu.Unlock()
	if m.rule.open == 0 && len(m.rule.steps) == 0 {
		fs.remove(m.rule)
	}
}

// visit is one request at the agent. A query that waits goes round again when a
// fault comes that it has not met, or one goes that altered what it would be told.
type visit struct {
	server   *Server
	client   http.ResponseWriter
	request  *http.Request
	met      []meeting
	changed  context.Context // of the rules, when met was drawn up
	waited   bool            // has been round already
	hurry    bool            // is answered without blocking
	again    bool            // stopped waiting to go round again
	deadline time.Time       // of its blocking
}

// meeting is a request with a fault that it met.
type meeting struct {
	visit *visit
	rule  *rule
	fault Fault
	seen  bool // has had its arrival
}

// errAgain unwinds a query that goes round again.
var errAgain = errors.New("the faults have changed")

// own leads from the context of a request to its visit.
type own struct{ *Server }

// serve goes round until the request is answered.
func (v *visit) serve(answer func(http.ResponseWriter)) {
	defer v.leave()
	for {
		v.meet()
		if v.round(answer); !v.again {
			return
		}
		v.again, v.waited = false, true
		clear(v.client.Header())
	}
}

func (v *visit) leave() {
	for _, m := range v.met {
		v.server.faults.leave(m)
	}
}

// meet draws up what the request meets in this round.
func (v *visit) meet() {
	fs := &v.server.faults
	fs.mu.Lock()
	defer fs.mu.Unlock()
	v.changed = fs.changed
	v.met = slices.DeleteFunc(v.met, func(m meeting) bool {
		v.hurry = v.hurry || m.gone() && m.fault.alters()
		return m.gone()
	})
	for _, r := range fs.rules {
		fault, ok := r.next(v.request)
		if !ok || v.hasMet(r) {
			continue
		}
		r.take()
		v.met = append(v.met, meeting{visit: v, rule: r, fault: fault})
		if len(fault.effects) > 0 && (v.waited || !r.lasts) {
			v.hurry = true
		}
		if !r.lasts {
			v.server.mu.Lock()
			fs.stir(fault)
			v.server.mu.Unlock()
		}
	}
}

// turned reports whether there is a reason to go round again.
func (v *visit) turned() bool {
	if v.changed.Err() == nil {
		return false
	}
	fs := &v.server.faults
	fs.mu.Lock()
	defer fs.mu.Unlock()
	v.again = slices.ContainsFunc(fs.rules, func(r *rule) bool {
		_, ok := r.next(v.request)
		return ok && !v.hasMet(r)
	}) || slices.ContainsFunc(v.met, func(m meeting) bool { return m.gone() && m.fault.alters() })
	v.changed = fs.changed
	return v.again
}

func (v *visit) hasMet(r *rule) bool {
	return slices.ContainsFunc(v.met, func(m meeting) bool { return m.rule == r })
}

func (m *meeting) gone() bool {
	select {
	case <-m.rule.lifted:
		return true
	default:
		return false
	}
}

// round is one try to answer.
func (v *visit) round(answer func(http.ResponseWriter)) {
	if len(v.met) == 0 {
		answered(answer, v.client)
		return
	}
	v.readBody()
	rec := &recorder{header: make(http.Header), status: http.StatusOK}
	if !v.arrive(rec) {
		if answered(answer, rec); v.again {
			return
		}
		rec.alter(v.effects())
	}
	v.deliver(rec)
}

// answered calls answer, which a query that goes round again may leave in the middle.
func answered(answer func(http.ResponseWriter), w http.ResponseWriter) {
	defer func() {
		if p := recover(); p != nil && p != errAgain {
			panic(p)
		}
	}()
	answer(w)
}

// arrive lets the faults act that come before the agent; each acts once.
func (v *visit) arrive(rec *recorder) (answered bool) {
	for i := range v.met {
		m := &v.met[i]
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

// effects are those of the faults that were not lifted in the meantime.
func (v *visit) effects() []effect {
	var all []effect
	for _, m := range v.met {
		if !m.gone() {
			all = append(all, m.fault.effects...)
		}
	}
	return all
}

// index is what the request is told instead of the true index.
func (v *visit) index(index uint64) uint64 {
	told := max(index, 1) // 0 would make clients spin
	for _, m := range v.met {
		for _, e := range m.fault.effects {
			if e.index != nil && !m.gone() {
				told = e.index(told, m.rule.lower)
			}
		}
	}
	return told
}

// isNews reports whether a query that knows an index is to be told another one. An
// index that fell by itself is none, as in Consul; one that a fault lowered is.
func (v *visit) isNews(told, known uint64) bool {
	return told > known ||
		told < known && v.find(func(e effect) bool { return e.index != nil }) != nil
}

// readBody takes the body in, so that net/http listens for the client's leaving
// while the request is held back.
func (v *visit) readBody() {
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
func (m *meeting) wait(timer *time.Timer) {
	var expired <-chan time.Time
	if timer != nil {
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-expired:
	case <-m.rule.lifted:
	case <-m.visit.request.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// timer limits the blocking of a query, for all rounds together. It is nil for
// what does not block.
func (v *visit) timer(timeout time.Duration) (expired <-chan time.Time, stop func()) {
	if timeout <= 0 || v.hurry {
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

// recorder keeps an answer until faults have altered it.
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

// deliver sends what was recorded, as fast and as far as the faults let it.
func (v *visit) deliver(rec *recorder) {
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

// find is the first meeting with a fault that has what is asked for, or nil.
func (v *visit) find(what func(effect) bool) *meeting {
	for i := range v.met {
		if v.met[i].fault.has(what) {
			return &v.met[i]
		}
	}
	return nil
}

func (v *visit) flush() { _ = http.NewResponseController(v.client).Flush() }

// drip sends the body in pieces; when the fault is lifted the rest comes at once.
func (m *meeting) drip(body []byte) {
	var whole time.Duration
	for _, e := range m.fault.effects {
		whole += e.drip
	}
	m.visit.flush()
	n := min(pieces, len(body)) // an empty body has come with its header
	for i := range n {
		m.wait(time.NewTimer(whole / time.Duration(n)))
		_, _ = m.visit.client.Write(body[len(body)*i/n : len(body)*(i+1)/n])
		m.visit.flush()
	}
}

// reset breaks the connection of the request, if it is known.
func (v *visit) reset() {
	if w, ok := v.client.(*responseWriter); ok {
		w.abort(&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	}
	if c, ok := v.request.Context().Value(connKey{}).(*conn); ok {
		c.breakOff("HTTP/1.1 200 OK\r\n", (*conn).reset) // half a line would look like a malformed one
	}
	panic(http.ErrAbortHandler)
}
