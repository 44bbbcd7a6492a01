//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// maxConfigEntries bounds the memory of entries of all kinds. Consul has no such bound.
const maxConfigEntries = 10000

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

// has reports whether there is an entry of any kind with that name.
func (s entrySet) has(name string) bool {
	for _, of := range s {
		if of[name] != nil {
			return true
		}
	}
	return false
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
	old := st.configs.entries[kind][name]
	*entry.tail() = entryTail{Meta: entry.tail().Meta}
	entry.tail().Hash = hashOf(entry)
	if old != nil && old.tail().Hash == entry.tail().Hash {
		return true, nil // whatever cas says
	}
	if cas != nil && *cas != indexOf(old) {
		return false, nil
	}
	if old == nil && st.configs.entries.count() == maxConfigEntries {
		return false, httpError{http.StatusInsufficientStorage, fmt.Sprintf("the store of config entries is full: it holds at most %d", maxConfigEntries)}
	}
	set := st.configs.entries.with(kind, name, entry)
	if err := set.checkChains(name); err != nil {
		return false, err
	}
	idx := st.next()
	entry.tail().CreateIndex, entry.tail().ModifyIndex = idx, idx
	if old != nil {
		entry.tail().CreateIndex = old.tail().CreateIndex
	}
	st.setConfigs(set, name, idx)
	return true, nil
}

// removeConfig removes an entry, if there is one and no chain breaks of it, and reports whether
// cas let it.
func (st *state) removeConfig(kind, name string, cas *uint64) (bool, error) {
	old := st.configs.entries[kind][name]
	if old == nil {
		return true, nil
	}
	if cas != nil && *cas != indexOf(old) {
		return false, nil
	}
	set := st.configs.entries.with(kind, name, nil)
	if err := set.checkChains(name); err != nil {
		return false, err
	}
	st.setConfigs(set, name, st.next())
	return true, nil
}

func (st *state) setConfigs(set entrySet, name string, idx uint64) {
	st.configs.entries, st.configs.index = set, idx
	st.configs.assignIP(name)
	st.wake()
}

func indexOf(entry configEntry) uint64 {
	if entry == nil {
		return 0
	}
	return entry.tail().ModifyIndex
}

func hashOf(entry configEntry) uint64 {
	text, _ := json.Marshal(entry) // entries were read of JSON
	sum := fnv.New64a()
	_, _ = sum.Write(text)
	return sum.Sum64()
}

// newEntry returns an empty one, or nil for an unknown kind.
func newEntry(kind string) any {
	switch kind {
	case defaultsKind:
		return new(serviceDefaults)
	case routerKind:
		return new(serviceRouter)
	case splitterKind:
		return new(serviceSplitter)
	case resolverKind:
		return new(serviceResolver)
	case intentionsKind:
		return new(intentionEntry)
	}
	return nil
}

// consulKinds are those that Consul has beside.
var consulKinds = []string{
	"api-gateway", "bound-api-gateway", "control-plane-request-limit", "exported-services", "file-system-certificate", "http-route",
	"ingress-gateway", "inline-certificate", "jwt-provider", "mesh", "proxy-defaults", "sameness-group", "tcp-route", "terminating-gateway",
}

// checkKind returns an error with that status if Consul has no such kind.
func checkKind(kind string, status int) error {
	switch {
	case slices.Contains(consulKinds, kind):
		return badRequest("consultest: config entries of kind %q are not supported: only %s, %s, %s, %s and %s",
			kind, defaultsKind, routerKind, splitterKind, resolverKind, intentionsKind)
	case newEntry(kind) == nil:
		return httpError{status, "invalid config entry kind: " + kind}
	}
	return nil
}

// decodeEntry reads an entry as Consul does: the names of fields may be in snake case, and all
// that are unknown are named.
func decodeEntry(body []byte) (any, error) {
	const failed = "Request decoding failed: "
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var raw any
	if err := d.Decode(&raw); err != nil {
		return nil, badRequest(failed+"%v", err)
	}
	fields, ok := raw.(map[string]any)
	if !ok {
		return nil, badRequest(failed+"expected an object, got %T", raw)
	}
	written := cmp.Or(fields["Kind"], fields["kind"])
	kind, ok := written.(string)
	switch {
	case written == nil:
		return nil, badRequest(failed + "Payload does not contain a kind/Kind key at the top level")
	case !ok:
		return nil, badRequest(failed + "Kind value in payload is not a string")
	}
	if err := checkKind(kind, http.StatusBadRequest); err != nil {
		return nil, badRequest(failed+"%v", err)
	}
	entry := newEntry(kind)
	if unknown := adapt(fields, reflect.TypeOf(entry), ""); len(unknown) > 0 {
		return nil, badRequest(failed+"%s", unknownKeys(kind, unknown))
	}
	text, err := json.Marshal(fields)
	if err == nil {
		err = json.Unmarshal(text, entry)
	}
	if err != nil {
		return nil, badRequest(failed+"%v", err)
	}
	return entry, nil
}

func unknownKeys(kind string, keys []string) string {
	if kind == defaultsKind {
		for _, key := range keys {
			if slices.Contains(unsupportedDefaults, key) {
				return fmt.Sprintf("consultest: %s of a %s entry is not supported: leave it out", key, kind)
			}
		}
	}
	errs := "errors"
	if len(keys) == 1 {
		errs = "error"
	}
	text := fmt.Sprintf("%d %s occurred:\n", len(keys), errs)
	for _, key := range slices.Sorted(slices.Values(keys)) {
		text += fmt.Sprintf("\t* invalid config key %q", key)
		if key == "Namespace" {
			text += ", namespaces are a consul enterprise feature"
		}
		text += "\n"
	}
	return text + "\n"
}

// adapt renames the keys of what was decoded of JSON to the fields of t, and returns the paths
// of those that t has not.
func adapt(value any, t reflect.Type, path string) (unknown []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch value := value.(type) {
	case []any:
		for i, item := range value {
			if t.Kind() == reflect.Slice {
				unknown = append(unknown, adapt(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))...)
			}
		}
	case map[string]any:
		switch t.Kind() {
		case reflect.Map:
			for key, item := range value {
				unknown = append(unknown, adapt(item, t.Elem(), fmt.Sprintf("%s[%s]", path, key))...)
			}
		case reflect.Struct:
			unknown = adaptFields(value, t, path)
		}
	}
	return unknown
}

func adaptFields(fields map[string]any, t reflect.Type, path string) (unknown []string) {
	if path != "" {
		path += "."
	}
	for key, item := range maps.Clone(fields) {
		field, ok := t.FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, strings.ReplaceAll(key, "_", "")) })
		if !ok || !field.IsExported() {
			unknown = append(unknown, path+key)
			continue
		}
		delete(fields, key)
		fields[field.Name] = item
		unknown = append(unknown, adapt(item, field.Type, path+key)...)
	}
	return unknown
}

// nanoseconds is a duration that is shown as a number.
type nanoseconds time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (n *nanoseconds) UnmarshalJSON(text []byte) error { return (*duration)(n).UnmarshalJSON(text) }

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
	permission, name := "service:write", ""
	switch entry := entry.(type) {
	case *intentionEntry:
		permission, name = "intention:write", entry.Name
	case configEntry:
		name = entry.head().Name
	}
	if err := s.require(r, permission, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.putEntry(entry, cas)
}

// putEntry stores an entry of any kind.
func (st *state) putEntry(entry any, cas *uint64) (bool, error) {
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
	permission := "service:write"
	if kind == intentionsKind {
		permission = "intention:write"
	}
	if err := s.require(r, permission, name); err != nil {
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

func (s configAPI) show(w http.ResponseWriter, r *http.Request, kind, name string) (any, error) {
	if err := s.require(r, "service:read", name); err != nil {
		return nil, err
	}
	var entry configEntry
	err := s.readChanged(w, r, func(st *state) (uint64, any) {
		entry = st.configs.entries[kind][name]
		return st.configs.index, entry
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
	err := s.readChanged(w, r, func(st *state) (uint64, any) {
		entries = sorted(st.configs.entries[kind])
		return st.configs.index, entries
	})
	if err == nil && s.filter(w, r, len(entries)) {
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
	err := s.readChanged(w, r, func(st *state) (uint64, any) {
		compiled, err := st.configs.entries.compile(service, datacenter, s.authority().trustDomain)
		if failed = err; err == nil {
			compiled.AutoVirtualIPs, compiled.ManualVirtualIPs = st.configs.ipsOf(service)
		}
		answer.Chain = compiled
		return st.configs.index, compiled
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
