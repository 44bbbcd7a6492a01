package consultest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
)

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

// visitOf finds the visit that r belongs to.
func (s *Server) visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(own{s}).(*visit)
	return v
}

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
		v.server.leave(m)
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
			v.server.stir(fault)
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
