package hop

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"
)

const (
	// maxText bounds each text of a record, in bytes.
	maxText = 256
	// maxDecoded bounds an answer once it is inflated, in bytes.
	maxDecoded = 128 << 10

	noRoom = "left out for lack of room"
)

// deflaters are free ones: each has some hundred KiB.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is one of those that there are
	}
	return w
}}

// Encode returns h in up to most bytes, as JSON that is compressed (RFC 1951). What does not
// fit is left out from the deepest hops on, and counted in the hops above. It returns nil if
// h itself does not fit. The hop is cut to the bounds of a record: use it no more.
func Encode(h *Hop, most int) []byte {
	h.bound(new(int), MaxHops)
	all := breadthFirst(h)
	whole := encode(h, len(all), all)
	if len(whole) <= most {
		return whole
	}
	// The most of them that fit.
	var best []byte
	sort.Search(len(all)-1, func(n int) bool {
		got := encode(h, n+1, all)
		if len(got) > most {
			return true
		}
		best = got
		return false
	})
	return best
}

// breadthFirst numbers h and those below, those near to h first.
func breadthFirst(h *Hop) map[*Hop]int {
	all := map[*Hop]int{}
	for level := []*Hop{h}; len(level) > 0; {
		var next []*Hop
		for _, one := range level {
			all[one] = len(all)
			one.below(func(sub **Hop) { next = append(next, *sub) })
		}
		level = next
	}
	return all
}

// encode encodes the first n of all.
func encode(h *Hop, n int, all map[*Hop]int) []byte {
	text, err := json.Marshal(h.first(n, all))
	if err != nil {
		return nil // its numbers are finite
	}
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	_, _ = w.Write(text) // a buffer takes all
	_ = w.Close()
	return out.Bytes()
}

// first is a copy of h without the hops from number n on.
func (h *Hop) first(n int, all map[*Hop]int) *Hop {
	kept := *h
	kept.Attempts = append([]Attempt(nil), h.Attempts...)
	kept.Calls = nil
	for i := range kept.Attempts {
		if a := &kept.Attempts[i]; a.Server == nil {
			continue
		} else if all[a.Server] < n {
			a.Server = a.Server.first(n, all)
		} else {
			kept.LeftOut += a.Server.total()
			a.Server, a.Silent = nil, noRoom
		}
	}
	for _, call := range h.Calls {
		if all[call] < n {
			kept.Calls = append(kept.Calls, call.first(n, all))
		} else {
			kept.LeftOut += call.total()
		}
	}
	return &kept
}

// total is how many hops h stands for, those that are left out below included.
func (h *Hop) total() int {
	n := 1 + h.LeftOut
	h.below(func(sub **Hop) { n += (*sub).total() })
	return n
}

// Decode reads an answer of [Encode], which may be of anybody: it is cut to the bounds of a
// record.
func Decode(data []byte) (*Hop, error) {
	inflated := flate.NewReader(bytes.NewReader(data))
	defer inflated.Close()
	text, err := io.ReadAll(io.LimitReader(inflated, maxDecoded+1))
	if err != nil {
		return nil, fmt.Errorf("hop: %w", err)
	}
	if len(text) > maxDecoded {
		return nil, fmt.Errorf("hop: more than %d bytes", maxDecoded)
	}
	h := &Hop{}
	if err := json.Unmarshal(text, h); err != nil {
		return nil, fmt.Errorf("hop: %w", err)
	}
	if h.Side != "server" {
		return nil, errors.New("hop: it is not of a server")
	}
	h.bound(new(int), MaxHops)
	return h, nil
}

// maxLeftOut is the most that a hop of an answer may say it leaves out.
const maxLeftOut = 1 << 20

// bound cuts h to the bounds of a record: texts, lists, hops in all, and servers one behind the
// other.
func (h *Hop) bound(nodes *int, servers int) {
	*nodes++
	h.LeftOut = min(max(h.LeftOut, 0), maxLeftOut)
	if h.Side == "server" {
		servers--
	}
	if n := len(h.Attempts) - maxList; n > 0 {
		h.Attempts, h.LeftOut = h.Attempts[:maxList], h.LeftOut+n
	}
	h.Calls = slices.DeleteFunc(h.Calls, func(call *Hop) bool { return call == nil })
	for len(h.Calls) > maxList {
		last := len(h.Calls) - 1
		h.LeftOut += h.Calls[last].total()
		h.Calls = h.Calls[:last]
	}
	clip(reflect.ValueOf(h).Elem())
	h.below(func(sub **Hop) {
		if *nodes >= maxNodes || (*sub).Side == "server" && servers <= 0 {
			h.LeftOut += (*sub).total()
			*sub = nil
			return
		}
		(*sub).bound(nodes, servers)
	})
	h.Calls = slices.DeleteFunc(h.Calls, func(call *Hop) bool { return call == nil })
	for i := range h.Attempts {
		if a := &h.Attempts[i]; a.Server == nil && a.Silent == "" {
			a.Silent = noRoom
		}
	}
}

var hopType = reflect.TypeFor[Hop]()

// clip cuts texts and lists of v, but not those of hops below it.
func clip(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		text := v.String()
		if len(text) > maxText {
			text = text[:maxText-3] + "..."
		}
		v.SetString(strings.ToValidUTF8(text, "?"))
	case reflect.Struct:
		for i := range v.NumField() {
			clip(v.Field(i))
		}
	case reflect.Slice:
		if v.Len() > maxList {
			v.SetLen(maxList)
		}
		for i := range v.Len() {
			clip(v.Index(i))
		}
	case reflect.Pointer:
		if !v.IsNil() && v.Type().Elem() != hopType {
			clip(v.Elem())
		}
	}
}
