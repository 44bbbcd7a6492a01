package consultest

import (
	"bytes"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

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
