package mirror

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// maxCounted caps the pairs of method and target that are counted one by one.
const maxCounted = 1024

// Other is the method and the target of what is counted together, beyond the first 1024 pairs of
// them, and the path of differences beyond the first 32 of a pair.
const Other = "(other)"

// dropped is why a call that was to be copied was not.
type dropped uint8

const (
	droppedCalls   dropped = iota // too many copies are in flight
	droppedBytes                  // too many bytes are
	droppedTargets                // the channel has too many targets
	droppedMessage                // it is no protobuf, or cannot be encoded
	droppedClosed                 // the channel is closed
	allDropped
)

// String is the value of a label.
func (d dropped) String() string {
	return [allDropped]string{"calls", "bytes", "targets", "message", "closed"}[d]
}

// id is what is counted together.
type id struct{ method, target string }

// counts are those of one method and target.
type counts struct {
	percent   atomic.Uint64                      // bits of a float64: of the policy in force
	codes     [codes.Unauthenticated + 1]counter // copies that have ended
	dropped   [allDropped]counter
	inFlight  atomic.Int64
	same      counter
	different counter

	mu          sync.Mutex
	lastError   string
	differences map[string]*Difference
}

type counter struct{ atomic.Uint64 }

// countsOf are those of method and target.
func (m *Mirror) countsOf(of id) *counts {
	if len(of.method) > rpc.MaxName {
		return &m.others
	}
	if c, ok := m.counts.Of(of, func() *counts { return &counts{} }); ok {
		return c
	}
	return &m.others
}

// apply records that p is what the policy says of method; nil is that it is not mirrored.
func (m *Mirror) apply(method string, p *part) {
	for of, c := range m.counts.All() {
		if of.method != method {
			continue
		}
		percent := 0.0
		if p != nil && of.target == p.to {
			percent = p.percent
		}
		c.percent.Store(math.Float64bits(percent))
	}
}

func (c *counts) drop(why dropped) { c.dropped[why].Add(1) }

// maxError bounds the last error in bytes.
const maxError = 256

func (c *counts) end(code codes.Code, err error) {
	if int(code) >= len(c.codes) {
		code = codes.Unknown
	}
	c.codes[code].Add(1)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lastError = cut(err.Error(), maxError)
	}
}

// maxPaths caps the paths of differences that are counted one by one.
const maxPaths = 32

// compared counts what differs in one answer.
func (c *counts) compared(found map[string]values) {
	if len(found) == 0 {
		c.same.Add(1)
		return
	}
	c.different.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.differences == nil {
		c.differences = map[string]*Difference{}
	}
	beyond := false
	for _, path := range slices.Sorted(maps.Keys(found)) {
		d := c.differences[path]
		if d == nil && len(c.differences) >= maxPaths {
			beyond = true
			continue
		}
		if d == nil {
			d = &Difference{Path: path}
			c.differences[path] = d
		}
		d.Count++
		d.Caller, d.Copy = found[path].caller, found[path].copy
	}
	if beyond {
		d := c.differences[Other]
		if d == nil {
			d = &Difference{Path: Other}
			c.differences[Other] = d
		}
		d.Count++
	}
}

// Stats is what became of the copies of one method to one target. Counts begin with the channel.
type Stats struct {
	Channel string  `json:"channel"` // as [WithChannel] names it
	Method  string  `json:"method"`  // "/package.Service/Method"
	Target  string  `json:"target"`  // "service" or "service/subset"
	Percent float64 `json:"percent"` // of the calls, by the policy in force; 0 is that it copies none
	// InFlight are the copies that wait for their answers.
	InFlight int64 `json:"in_flight"`
	// Codes are the copies that have ended, by the name of their code: "OK".
	Codes map[string]uint64 `json:"codes"`
	// Dropped are the calls that were to be copied and were not, by the reason: "calls" or "bytes"
	// (the bound is reached), "targets" (too many), "message" (it is no protobuf), "closed".
	Dropped map[string]uint64 `json:"dropped"`
	// Same and Different are the answers that were compared.
	Same      uint64 `json:"same"`
	Different uint64 `json:"different"`
	// Differences are by path, the most frequent first. An answer may differ at several.
	Differences []Difference `json:"differences"`
	LastError   string       `json:"last_error,omitempty"` // of a copy
}

// Difference is where answers differ, with the values of the latest pair. Long values are cut. Those
// of fields marked debug_redact, and what is no field that this program knows, are not shown.
type Difference struct {
	Path   string `json:"path"` // "sweet.price"; "(status)" is the code
	Count  uint64 `json:"count"`
	Caller string `json:"caller"` // what the caller received
	Copy   string `json:"copy"`
}

// Stats returns what became of copies, by method and target.
func (m *Mirror) Stats() []Stats {
	all := []Stats{}
	for of, c := range m.counts.All() {
		all = append(all, c.stats(m.channel, of))
	}
	if others := m.others.stats(m.channel, id{Other, Other}); others.Different+others.Same+uint64(len(others.Codes)+len(others.Dropped)) > 0 {
		all = append(all, others)
	}
	slices.SortFunc(all, func(a, b Stats) int {
		return cmp.Or(cmp.Compare(a.Method, b.Method), cmp.Compare(a.Target, b.Target))
	})
	return all
}

func (c *counts) stats(channel string, of id) Stats {
	s := Stats{
		Channel: channel, Method: of.method, Target: of.target, Percent: math.Float64frombits(c.percent.Load()), InFlight: c.inFlight.Load(),
		Codes: map[string]uint64{}, Dropped: map[string]uint64{}, Same: c.same.Load(), Different: c.different.Load(),
		Differences: []Difference{},
	}
	for code := range c.codes {
		if n := c.codes[code].Load(); n > 0 {
			s.Codes[codes.Code(code).String()] = n
		}
	}
	for why := range c.dropped {
		if n := c.dropped[why].Load(); n > 0 {
			s.Dropped[dropped(why).String()] = n
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.LastError = c.lastError
	for _, d := range c.differences {
		s.Differences = append(s.Differences, *d)
	}
	slices.SortFunc(s.Differences, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Path, b.Path))
	})
	return s
}

// Plan is what the policy says of copies of a call.
type Plan struct {
	Target  string   `json:"target"`
	Percent float64  `json:"percent"` // 0 is none
	Compare bool     `json:"compare"`
	Ignore  []string `json:"ignore"`
	Why     string   `json:"why,omitempty"` // why none is copied although there is a rule
}

// PlanOf is the plan of calls of meta, nil without a rule.
func PlanOf(meta *interceptors.CallMeta) *Plan {
	rule := meta.Policy.GetMirror()
	if rule == nil {
		return nil
	}
	p := &Plan{Target: rule.GetTarget(), Percent: rule.GetPercent(), Compare: rule.GetCompare(), Ignore: append([]string{}, rule.GetIgnore()...)}
	switch {
	case p.Percent == 0:
		p.Why = "percent is 0"
	case meta.Streams():
		p.Percent, p.Why = 0, "streams are not copied"
	case !meta.Mirrorable():
		p.Percent, p.Why = 0, "the method may not run twice"
	}
	return p
}
