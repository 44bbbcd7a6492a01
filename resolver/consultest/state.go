package consultest

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Bounds of memory. Consul has none.
const (
	maxServices = 20000
	maxChecks   = 40000
)

// Where the indexes of a fresh `consul agent -dev` stand.
const (
	bootNode  = 11
	bootIndex = 14
)

// state is the catalog and the KV store. It has no timers and no lock: those are the
// registry's.
type state struct {
	cfg     *config
	index   uint64        // of the last write, shared by everything
	changed chan struct{} // closed and replaced by every write

	instances map[string]*instance            // by service id
	byName    map[string]map[string]*instance // by service name, then id
	checks    map[string]*check               // by check id

	// Indexes as Consul keeps them: of whole tables, of each service that exists,
	// and of the last time a service lost its last instance, which is the index
	// of all that do not exist.
	nodesIndex, servicesIndex, checksIndex uint64
	serviceIndex                           map[string]uint64
	extinction                             uint64

	intentions      map[string]*intentionEntry // by destination
	intentionsIndex uint64                     // of the last change to any

	configs configStore
	kv      kvStore
}

type instance struct {
	Service
	catalogOnly    bool // not the agent's own: Consul itself
	checks         map[string]*check
	create, modify uint64
}

func newState(cfg *config) *state {
	st := &state{
		cfg: cfg, index: bootIndex, changed: make(chan struct{}),
		instances: make(map[string]*instance), byName: make(map[string]map[string]*instance),
		checks: make(map[string]*check), serviceIndex: make(map[string]uint64),
		nodesIndex: bootIndex, servicesIndex: bootNode, checksIndex: bootNode,
		kv: newKVStore(), intentions: make(map[string]*intentionEntry), configs: newConfigStore(),
	}
	st.checks["serfHealth"] = &check{
		id: "serfHealth", catalogOnly: true, status: HealthPassing, create: bootNode, modify: bootNode,
		Check: Check{Name: "Serf Health Status"}, catalogOutput: "Agent alive and reachable",
	}
	st.insert(&instance{
		Service: Service{ID: "consul", Name: "consul", Port: 8300, Weights: Weights{1, 1}, Meta: map[string]string{
			"non_voter": "false", "raft_version": "3", "read_replica": "false", "serf_protocol_current": "2",
			"serf_protocol_max": "5", "serf_protocol_min": "1", "version": version}},
		catalogOnly: true, create: bootNode, modify: bootNode, checks: map[string]*check{},
	})
	st.serviceIndex["consul"] = bootNode
	return st
}

// wake makes waiting queries read again.
func (st *state) wake() {
	close(st.changed)
	st.changed = make(chan struct{})
}

// raiseIndex raises the index of a service, or of all, without a write.
func (st *state) raiseIndex(name string) {
	idx := st.next()
	if name != "" {
		st.touch(name, idx)
	} else {
		for name := range st.byName {
			st.touch(name, idx)
		}
		st.extinction = idx
	}
	st.nodesIndex, st.servicesIndex, st.checksIndex, st.configs.index = idx, idx, idx, idx
	st.wake()
}

// next starts a write and returns its index.
func (st *state) next() uint64 {
	st.index++
	return st.index
}

// touch marks a write to an instance of name, or to one of its checks.
func (st *state) touch(name string, idx uint64) {
	if !st.exists(name) {
		delete(st.serviceIndex, name)
		st.extinction = idx
		return
	}
	st.serviceIndex[name] = idx
}

func (st *state) insert(in *instance) {
	st.instances[in.ID] = in
	if st.byName[in.Name] == nil {
		st.byName[in.Name] = make(map[string]*instance)
	}
	st.byName[in.Name][in.ID] = in
}

// put stores svc and reports whether that changed anything.
func (st *state) put(svc Service, idx uint64) bool {
	svc.Checks = nil
	old := st.instances[svc.ID]
	if old != nil && reflect.DeepEqual(old.Service, svc) {
		return false
	}
	in := &instance{Service: svc, create: idx, modify: idx, checks: make(map[string]*check)}
	if old != nil {
		in.create, in.checks = old.create, old.checks
		if old.Name != svc.Name {
			st.unlist(old, idx)
		}
	}
	st.insert(in)
	for _, c := range in.checks {
		if c.serviceName != svc.Name || !slices.Equal(c.serviceTags, svc.Tags) {
			c.serviceName, c.serviceTags, c.modify, st.checksIndex = svc.Name, svc.Tags, idx, idx
		}
	}
	st.servicesIndex = idx
	st.touch(svc.Name, idx)
	return true
}

// unlist removes in from its name, which ends with its last instance.
func (st *state) unlist(in *instance, idx uint64) {
	delete(st.byName[in.Name], in.ID)
	if len(st.byName[in.Name]) == 0 {
		delete(st.byName, in.Name)
	}
	st.touch(in.Name, idx)
}

// remove deletes an instance with its checks.
func (st *state) remove(in *instance, idx uint64) {
	for id := range in.checks {
		delete(st.checks, id)
	}
	delete(st.instances, in.ID)
	st.servicesIndex, st.checksIndex = idx, idx
	st.unlist(in, idx)
}

// putCheck stores c in place of one with the same id.
func (st *state) putCheck(c *check, idx uint64) bool {
	old := st.checks[c.id]
	c.create, c.modify = idx, idx
	if old != nil {
		c.create = old.create
		if sameCheck(c, old) {
			c.modify = old.modify
		}
		if in := st.instances[old.serviceID]; in != nil {
			delete(in.checks, old.id)
		}
	}
	st.checks[c.id] = c
	if in := st.instances[c.serviceID]; in != nil {
		in.checks[c.id] = c
	}
	if c.modify != idx {
		return false
	}
	st.touchCheck(c, idx)
	return true
}

func (st *state) removeCheck(c *check, idx uint64) {
	delete(st.checks, c.id)
	if in := st.instances[c.serviceID]; in != nil {
		delete(in.checks, c.id)
	}
	st.touchCheck(c, idx)
}

// touchCheck marks a write to a check: a node's check concerns every service on it.
func (st *state) touchCheck(c *check, idx uint64) {
	st.checksIndex = idx
	if c.serviceID != "" {
		st.touch(c.serviceName, idx)
		return
	}
	for name := range st.byName {
		st.touch(name, idx)
	}
}

// indexOf is the index of the instances of name, which rises with writes to these
// and their checks only. withChecks matters only until the
// first service ends.
func (st *state) indexOf(name string, withChecks bool) uint64 {
	if idx, ok := st.serviceIndex[name]; ok {
		return idx
	}
	if st.extinction > 0 {
		return st.extinction
	}
	if withChecks {
		return max(st.nodesIndex, st.servicesIndex, st.checksIndex)
	}
	return max(st.nodesIndex, st.servicesIndex)
}

func (st *state) exists(name string) bool { return len(st.byName[name]) > 0 }

func (st *state) instancesOf(name string) []*instance {
	return sorted(st.byName[name])
}

// checksOf returns the checks that apply to in: the node's and its own.
func (st *state) checksOf(in *instance, nodeChecks []*check) []*check {
	return append(slices.Clip(nodeChecks), sorted(in.checks)...)
}

func (st *state) nodeChecks() []*check {
	var of []*check
	for _, c := range st.checks {
		if c.serviceID == "" {
			of = append(of, c)
		}
	}
	slices.SortFunc(of, func(a, b *check) int { return cmp.Compare(a.id, b.id) })
	return of
}

// full returns which limit would be exceeded, or "".
func (st *state) full(newServices, newChecks int) string {
	if len(st.instances)+newServices > maxServices {
		return "the registry is full: it holds at most " + strconv.Itoa(maxServices) + " services"
	}
	if len(st.checks)+newChecks > maxChecks {
		return "the registry is full: it holds at most " + strconv.Itoa(maxChecks) + " checks"
	}
	return ""
}

func sorted[V any](m map[string]V) []V {
	values := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[k])
	}
	return values
}

// sortedPairs iterates over m in the order of its keys.
func sortedPairs[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

// Bounds of memory of the KV store.
const (
	maxKeys       = 10000
	maxKVBytes    = 64 << 20
	maxTombstones = 4096
)

// kvEntry is a key, in Consul's shape.
type kvEntry struct {
	LockIndex   uint64
	Key         string
	Flags       uint64
	Value       []byte
	CreateIndex uint64
	ModifyIndex uint64
}

// kvStore keeps deleted keys by their index, so that the index of a prefix does
// not go backwards when its newest key goes.
type kvStore struct {
	entries      map[string]kvEntry
	tombstones   map[string]uint64
	evictedIndex uint64 // of the newest evicted tombstone
	index        uint64 // of the last change to any key
	size         int
}

func newKVStore() kvStore {
	return kvStore{entries: make(map[string]kvEntry), tombstones: make(map[string]uint64)}
}

func (kv *kvStore) put(entry kvEntry, idx uint64) error {
	old, exists := kv.entries[entry.Key]
	if exists && old.Flags == entry.Flags && bytes.Equal(old.Value, entry.Value) {
		return nil
	}
	size := kv.size + len(entry.Value) - len(old.Value)
	if !exists && len(kv.entries) == maxKeys || size > maxKVBytes {
		return httpError{http.StatusInsufficientStorage,
			fmt.Sprintf("the KV store is full: it holds at most %d keys and %d bytes", maxKeys, maxKVBytes)}
	}
	entry.CreateIndex, entry.ModifyIndex = idx, idx
	if exists {
		entry.CreateIndex = old.CreateIndex
	}
	kv.entries[entry.Key], kv.size, kv.index = entry, size, idx
	return nil
}

func (kv *kvStore) remove(key string, idx uint64) {
	old, exists := kv.entries[key]
	if !exists {
		return
	}
	delete(kv.entries, key)
	kv.size -= len(old.Value)
	if len(kv.tombstones) == maxTombstones {
		kv.evictedIndex = kv.index
		clear(kv.tombstones)
	}
	kv.tombstones[key], kv.index = idx, idx
}

// list finds the keys that begin with prefix, in order, and the index of the
// last change to any of them.
func (kv *kvStore) list(prefix string) (entries []kvEntry, index uint64) {
	if prefix == "" {
		index = kv.index
	}
	for key, entry := range kv.entries {
		if strings.HasPrefix(key, prefix) {
			entries, index = append(entries, entry), max(index, entry.ModifyIndex)
		}
	}
	for key, idx := range kv.tombstones {
		if strings.HasPrefix(key, prefix) {
			index = max(index, idx)
		}
	}
	if index = max(index, kv.evictedIndex); index == 0 {
		index = kv.index
	}
	slices.SortFunc(entries, func(a, b kvEntry) int { return cmp.Compare(a.Key, b.Key) })
	return entries, index
}
