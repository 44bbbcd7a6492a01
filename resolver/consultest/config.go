//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Bounds of memory of the entries of all kinds. Consul has none.
const (
	maxConfigEntries = 5000
	maxConfigBytes   = 16 << 20
)

// entrySet is config entries by kind, then name.
type entrySet map[string]map[string]configEntry

// entryOf returns an entry of the kind that E is of, or nil.
func entryOf[E configEntry](set entrySet, kind, name string) E {
	entry, _ := set[kind][name].(E)
	return entry
}

// with returns a copy in which entry, nil if it is deleted, replaces what has its name.
func (s entrySet) with(kind, name string, entry configEntry) entrySet {
	set := maps.Clone(s)
	set[kind] = maps.Clone(s[kind])
	if delete(set[kind], name); entry != nil {
		if set[kind] == nil {
			set[kind] = make(map[string]configEntry)
		}
		set[kind][name] = entry
	}
	return set
}

func (s entrySet) count() (n int) {
	for _, of := range s {
		n += len(of)
	}
	return n
}

// has reports whether a service has an entry of its own.
func (s entrySet) has(service string) bool {
	for kind, of := range s {
		if kind != proxyKind && of[service] != nil {
			return true
		}
	}
	return false
}

// services returns the names of those with an entry of their own.
func (s entrySet) services() []string {
	var names []string
	for kind, of := range s {
		if kind != proxyKind {
			names = slices.AppendSeq(names, maps.Keys(of))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// referrers returns the names of the entries that refer to a service.
func (s entrySet) referrers(service string) []string {
	from := make(map[string]bool)
	for _, of := range s {
		for name, entry := range of {
			if slices.Contains(entry.refers(), service) {
				from[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(from))
}

// configStore is the config entries but for intentions.
type configStore struct {
	entries entrySet
	size    int    // of their JSON
	index   uint64 // of the last change to any

	virtualIPs map[string]string // of the services with an entry
	lastIP     netip.Addr
}

func newConfigStore() configStore {
	return configStore{entries: entrySet{}, index: bootNode, virtualIPs: make(map[string]string), lastIP: netip.AddrFrom4([4]byte{240, 0, 0, 0})}
}

// assignIP gives a service with entries an address, as Consul does for its transparent proxies.
func (c *configStore) assignIP(name string) {
	switch _, ok := c.virtualIPs[name]; {
	case !c.entries.has(name):
		delete(c.virtualIPs, name)
	case !ok:
		c.lastIP = c.lastIP.Next()
		c.virtualIPs[name] = c.lastIP.String()
	}
}

// putConfig stores entry if no chain breaks of it, and reports whether cas let it. An index of
// 0 in cas means that there is none yet.
func (st *state) putConfig(entry configEntry, cas *uint64) (bool, error) {
	kind, name := entry.head().Kind, entry.head().Name
	if name == "" {
		return false, errors.New("Name is required")
	}
	entry.normalize()
	if err := entry.check(); err != nil {
		return false, err
	}
	old, of := st.configs.entries[kind][name], entry.tail()
	of.measure(entry)
	if old != nil && old.tail().Hash == of.Hash {
		return true, nil // whatever cas says
	}
	if cas != nil && *cas != indexOf(old) {
		return false, nil
	}
	set := st.configs.entries.with(kind, name, entry)
	if set.count() > maxConfigEntries || st.configs.size+of.size > maxConfigBytes {
		return false, httpError{http.StatusInsufficientStorage,
			fmt.Sprintf("the store of config entries is full: it holds at most %d entries and %d bytes", maxConfigEntries, maxConfigBytes)}
	}
	if err := set.checkChains(kind, name); err != nil {
		return false, err
	}
	of.ModifyIndex = st.next()
	of.CreateIndex = of.ModifyIndex
	grown := of.size
	if old != nil {
		of.CreateIndex = old.tail().CreateIndex
		grown -= old.tail().size
	}
	st.setConfigs(set, name, grown)
	return true, nil
}

// removeConfig removes an entry, if there is one and no chain breaks of it, and reports whether
// cas let it.
func (st *state) removeConfig(kind, name string, cas *uint64) (bool, error) {
	if kind == proxyKind {
		if err := checkProxyName(name); err != nil {
			return false, err
		}
	}
	old := st.configs.entries[kind][name]
	if old == nil {
		return true, nil
	}
	if cas != nil && *cas != indexOf(old) {
		return false, nil
	}
	set := st.configs.entries.with(kind, name, nil)
	if err := set.checkChains(kind, name); err != nil {
		return false, err
	}
	st.next()
	st.setConfigs(set, name, -old.tail().size)
	return true, nil
}

// setConfigs replaces the entries by set, in which the entry with that name has grown.
func (st *state) setConfigs(set entrySet, name string, grown int) {
	st.configs.entries, st.configs.index = set, st.index
	st.configs.size += grown
	st.configs.assignIP(name)
	st.wake()
}

func indexOf(entry configEntry) uint64 {
	if entry == nil {
		return 0
	}
	return entry.tail().ModifyIndex
}

// measure sets the hash and the size, and clears what a writer cannot set.
func (t *entryTail) measure(entry configEntry) {
	*t = entryTail{Meta: t.Meta}
	text, _ := json.Marshal(entry) // entries were read of JSON
	sum := fnv.New64a()
	_, _ = sum.Write(text)
	t.Hash, t.size = sum.Sum64(), len(text)
}

// configAPI answers /v1/config and /v1/discovery-chain/.
// https://developer.hashicorp.com/consul/api-docs/config
type configAPI struct{ *Server }

// write answers PUT /v1/config.
func (s configAPI) write(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	entry, err := decodeEntry(body)
	if err != nil {
		return nil, err
	}
	cas, err := casOf(r)
	if err != nil {
		return nil, err
	}
	if err := s.requireWrite(r, entry.head().Kind, entry.head().Name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.putEntry(entry, cas)
}

// requireWrite rejects a request whose token may not write an entry.
func (s configAPI) requireWrite(r *http.Request, kind, name string) error {
	switch kind {
	case intentionsKind:
		return s.require(r, "intention:write", name)
	case proxyKind:
		return s.requireRight(r, "'mesh:write'")
	}
	return s.require(r, "service:write", name)
}

// requireRead rejects a request whose token may not read an entry. All may read that of proxies.
func (s configAPI) requireRead(r *http.Request, kind, name string) error {
	if kind == proxyKind {
		_, err := s.allowed(r)
		return err
	}
	return s.require(r, "service:read", name)
}

// putEntry stores an entry of any kind.
func (st *state) putEntry(entry anyEntry, cas *uint64) (bool, error) {
	switch entry := entry.(type) {
	case *intentionEntry:
		return true, st.putIntentions(*entry)
	case configEntry:
		return st.putConfig(entry, cas)
	}
	panic(fmt.Sprintf("consultest: no config entry: %T", entry))
}

// casOf returns the index of a check-and-set operation, nil without one.
func casOf(r *http.Request) (*uint64, error) {
	index, given, err := parseCAS(r.URL.Query())
	if err != nil || !given {
		return nil, err
	}
	return &index, nil
}

// named answers GET and DELETE of /v1/config/:kind and /v1/config/:kind/:name.
func (s configAPI) named(w http.ResponseWriter, r *http.Request) (any, error) {
	kind, name, one := strings.Cut(after(r, "/v1/config/"), "/")
	if r.Method == http.MethodDelete {
		return s.remove(r, kind, name, one)
	}
	if err := checkKind(kind, http.StatusInternalServerError); err != nil {
		return nil, err
	}
	if kind == intentionsKind {
		return nil, badRequest("consultest: config entries of kind %q are written here: read them at /v1/connect/intentions/match", kind)
	}
	if one {
		return s.show(w, r, kind, name)
	}
	return s.list(w, r, kind)
}

func (s configAPI) remove(r *http.Request, kind, name string, one bool) (any, error) {
	if !one {
		return nil, httpError{http.StatusNotFound, "Must provide both a kind and name to delete"}
	}
	if err := checkKind(kind, http.StatusBadRequest); err != nil {
		return nil, err
	}
	if err := s.requireWrite(r, kind, name); err != nil {
		return nil, err
	}
	cas, err := casOf(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	removed, err := s.st.removeEntry(kind, name, cas)
	if err != nil {
		return nil, err
	}
	if cas != nil {
		return removed, nil
	}
	return struct{}{}, nil
}

// removeEntry removes an entry of any kind.
func (st *state) removeEntry(kind, name string, cas *uint64) (bool, error) {
	if kind == intentionsKind {
		st.removeIntentions(name)
		return true, nil
	}
	return st.removeConfig(kind, name, cas)
}

// readConfigs is read for what look makes of the config entries: a query keeps blocking while
// that is what it was at first, whatever else is written.
func (s configAPI) readConfigs(w http.ResponseWriter, r *http.Request, look func(*state) any) error {
	var first any
	var seen uint64 // index
	return s.readNew(w, r, func(st *state) (index uint64, same bool) {
		if seen == st.configs.index {
			return seen, true
		}
		now := look(st)
		if seen == 0 {
			first = now
		} else {
			same = reflect.DeepEqual(first, now)
		}
		seen = st.configs.index
		return seen, same
	})
}

func (s configAPI) show(w http.ResponseWriter, r *http.Request, kind, name string) (any, error) {
	if err := s.requireRead(r, kind, name); err != nil {
		return nil, err
	}
	var entry configEntry
	err := s.readConfigs(w, r, func(st *state) any {
		entry = st.configs.entries[kind][name]
		return entry
	})
	if err == nil && entry == nil {
		err = httpError{http.StatusNotFound, fmt.Sprintf("Config entry not found for %q / %q", kind, name)}
	}
	return entry, err
}

func (s configAPI) list(w http.ResponseWriter, r *http.Request, kind string) (any, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	var entries []configEntry
	err := s.readConfigs(w, r, func(st *state) any {
		entries = sorted(st.configs.entries[kind])
		return entries
	})
	if err == nil && kind != proxyKind && s.filter(w, r, len(entries)) {
		entries = entries[:0]
	}
	return entries, err
}

// chain answers /v1/discovery-chain/:service.
// https://developer.hashicorp.com/consul/api-docs/discovery-chain
func (s configAPI) chain(w http.ResponseWriter, r *http.Request) (any, error) {
	service := after(r, "/v1/discovery-chain/")
	if service == "" {
		return nil, badRequest("Missing chain name")
	}
	if err := s.refuseOverrides(r); err != nil {
		return nil, err
	}
	if err := s.require(r, "service:read", service); err != nil {
		return nil, err
	}
	datacenter := cmp.Or(r.URL.Query().Get("compile-dc"), s.datacenter)
	var answer struct{ Chain *chain }
	var failed error
	err := s.readConfigs(w, r, func(st *state) any {
		compiled, err := st.configs.entries.compile(service, datacenter, s.authority().trustDomain)
		if failed = err; err == nil {
			compiled.AutoVirtualIPs, compiled.ManualVirtualIPs = st.configs.ipsOf(service)
		}
		answer.Chain = compiled
		return compiled
	})
	return answer, cmp.Or(err, failed)
}

// ipsOf returns nils for a service without an address.
func (c *configStore) ipsOf(service string) (auto, manual []string) {
	if ip := c.virtualIPs[service]; ip != "" {
		return []string{ip}, []string{}
	}
	return nil, nil
}

// refuseOverrides refuses what a POST may have in its body.
func (s configAPI) refuseOverrides(r *http.Request) error {
	if r.Method != http.MethodPost {
		return nil
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	var overrides map[string]any
	if err := json.Unmarshal(body, &overrides); err != nil {
		return badRequest("Request decoding failed: %v", err)
	}
	for name := range sortedPairs(overrides) {
		return badRequest("consultest: %s in the body is not supported: compile the chain without overrides, by GET", name)
	}
	return nil
}
