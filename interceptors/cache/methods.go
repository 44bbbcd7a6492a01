package cache

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxMethods caps the methods that are told apart. A contract has tens of them; those of
// a proxy that serves any number count together beyond it.
const maxMethods = 4096

// methods are what the cache knows of each method that it has met.
type methods struct {
	mu    sync.RWMutex
	known map[string]*method
	other method // all beyond the cap
}

// method is what the calls of one method share, whichever channel or server they go
// through.
type method struct {
	name    string
	rule    atomic.Pointer[rule] // the latest
	entries atomic.Int64
	bytes   atomic.Int64
	results counters
	recent  window
	compare comparison
	share   share
	// pausedUntil is when it may be refreshed again, in nanoseconds since 1970.
	pausedUntil atomic.Int64

	mu     sync.Mutex
	fields [][]fieldPath // of the request, that make up a key under one of its rules
}

// maxKeyFields caps the ways to tell requests of a method apart that are remembered: each
// of the few rules of it, on two sides, may have its own.
const maxKeyFields = 16

// tellApartBy remembers fields that make up a key.
func (m *method) tellApartBy(fields []fieldPath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := func(other []fieldPath) bool {
		return slices.EqualFunc(fields, other, func(a, b fieldPath) bool { return slices.Equal(a, b) })
	}
	if len(fields) > 0 && len(m.fields) < maxKeyFields && !slices.ContainsFunc(m.fields, same) {
		m.fields = append(m.fields, fields)
	}
}

// keyFields are the fields of the request that make up keys.
func (m *method) keyFields() [][]fieldPath {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.fields)
}

type fieldPath = []protoreflect.FieldDescriptor

// of finds what is known of a method.
func (m *methods) of(fullMethod string) *method {
	m.mu.RLock()
	known := m.known[fullMethod]
	m.mu.RUnlock()
	if known != nil {
		return known
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.known[fullMethod]; known != nil {
		return known
	}
	if len(m.known) >= maxMethods {
		return &m.other
	}
	if m.known == nil {
		m.known = map[string]*method{}
	}
	made := &method{name: strings.TrimPrefix(fullMethod, "/")}
	m.known[fullMethod] = made
	return made
}

// all are the methods by name, and last what stands for those beyond the cap.
func (m *methods) all() []*method {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []*method
	for _, name := range slices.Sorted(maps.Keys(m.known)) {
		all = append(all, m.known[name])
	}
	return append(all, &m.other)
}

// kept and gone count what is in memory.
func (m *method) kept(e *entry) { m.entries.Add(1); m.bytes.Add(int64(e.weight)) }
func (m *method) gone(e *entry) { m.entries.Add(-1); m.bytes.Add(-int64(e.weight)) }
