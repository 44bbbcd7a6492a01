package hop

import (
	"sync"
	"time"
)

const (
	// MaxHops is how many servers a call is explained through, one behind the other.
	MaxHops = 8
	// maxNodes bounds the hops of a record, those that other processes answered included.
	maxNodes = 256
	// maxList bounds every list in a hop.
	maxList = 32
)

// tree is what the records of one call, and of those that its handler makes, share.
type tree struct {
	mu     sync.Mutex
	closed bool // it was answered, and does not change any more
	nodes  int
}

// Record fills a hop while its call runs. It is safe for concurrent use. A nil record is that of
// a call that nobody wants explained: its methods do nothing.
type Record struct {
	tree  *tree
	hop   *Hop
	start time.Time
	left  int // further servers that may be asked, one behind the other
}

// New begins the record of a call, behind which up to left servers may be asked.
func New(side, method string, left int) *Record {
	return &Record{tree: &tree{nodes: 1}, hop: &Hop{Side: side, Method: method}, start: time.Now(), left: left}
}

// Note has f change the hop, unless it was answered already. f must be quick.
func (r *Record) Note(f func(*Hop)) {
	if r == nil {
		return
	}
	r.tree.mu.Lock()
	defer r.tree.mu.Unlock()
	if !r.tree.closed {
		f(r.hop)
	}
}

// Call begins the record of a call that is made while that of r runs: nil if there is no room
// for it, which r counts.
func (r *Record) Call(method, target string) (call *Record) {
	r.Note(func(h *Hop) {
		if len(h.Calls) >= maxList || r.tree.nodes >= maxNodes {
			h.LeftOut++
			return
		}
		r.tree.nodes++
		made := &Hop{Side: "client", Method: method, Target: target}
		h.Calls = append(h.Calls, made)
		call = &Record{tree: r.tree, hop: made, start: time.Now(), left: r.left}
	})
	return call
}

// Left is how many further servers may be asked, one behind the other.
func (r *Record) Left() int {
	if r == nil {
		return 0
	}
	return r.left
}

// Elapsed is how long ago the record was begun.
func (r *Record) Elapsed() time.Duration { return time.Since(r.start) }

// Attempt adds an attempt and returns its index, -1 if there is no room for it.
func (r *Record) Attempt(a Attempt) (at int) {
	at = -1
	r.Note(func(h *Hop) {
		if len(h.Attempts) >= maxList {
			h.LeftOut++
			return
		}
		at = len(h.Attempts)
		h.Attempts = append(h.Attempts, a)
	})
	return at
}

// Attempted has f change the attempt at an index, and adds the answer of its server, if there is
// one and it has room.
func (r *Record) Attempted(at int, f func(*Attempt), server *Hop) {
	r.Note(func(h *Hop) {
		if at < 0 {
			return
		}
		a := &h.Attempts[at]
		f(a)
		if server == nil {
			return
		}
		if n := server.total(); r.tree.nodes+n <= maxNodes {
			r.tree.nodes += n
			a.Server = server
		} else {
			h.LeftOut += n
			a.Silent = noRoom
		}
	})
}

// End records how the call ended. Of several ends the first counts.
func (r *Record) End(code string) {
	r.Note(func(h *Hop) {
		if h.Code == "" {
			h.Code, h.Duration = code, Milliseconds(time.Since(r.start))
		}
	})
}

// Close ends the recording, that of all calls below included, and returns the hop, which does not
// change any more.
func (r *Record) Close() *Hop {
	r.tree.mu.Lock()
	defer r.tree.mu.Unlock()
	r.tree.closed = true
	return r.hop
}
