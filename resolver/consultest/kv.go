package consultest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// kvAPI answers /v1/kv/: the KV store without sessions, and so without locks.
// https://developer.hashicorp.com/consul/api-docs/kv
type kvAPI struct{ *Server }

func (s kvAPI) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	key, err := kvKey(r)
	if err != nil {
		return nil, err
	}
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPut:
		return s.kvPut(r, key, q)
	case r.Method == http.MethodDelete:
		return s.kvDelete(r, key, q)
	case q.Has("keys"):
		return s.kvKeys(w, r, key, q)
	case q.Has("recurse"):
		return s.kvList(w, r, key)
	default:
		return s.kvGet(w, r, key, q)
	}
}

// kvKey is the key in the path, cleaned as Consul cleans it.
func kvKey(r *http.Request) (string, error) {
	raw := after(r, "/v1/kv/")
	if raw == "" {
		return "", nil
	}
	key := path.Clean(raw)
	if strings.HasSuffix(raw, "/") && !strings.HasSuffix(key, "/") {
		key += "/"
	}
	if strings.HasPrefix(key, " ") || strings.HasSuffix(key, " ") {
		return "", errors.New("invalid key name, leading/trailing spaces are not allowed")
	}
	if slices.Contains(strings.Split(key, "/"), "..") {
		return "", errors.New("invalid key name, path traversal is not allowed")
	}
	return key, nil
}

var errMissingKey = httpError{http.StatusBadRequest, "Missing key name"}

// notFound is a 404 with the headers of a read and nothing else.
func notFound(w http.ResponseWriter) error {
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusNotFound)
	return errAnswered
}

func (s kvAPI) kvGet(w http.ResponseWriter, r *http.Request, key string, q url.Values) (any, error) {
	if key == "" {
		return nil, errMissingKey
	}
	if err := s.require(r, "key:read", key); err != nil {
		return nil, err
	}
	var entry kvEntry
	var found bool
	err := s.readFound(w, r, func(st *state) (uint64, bool) {
		if entry, found = st.kv.entries[key]; found {
			return entry.ModifyIndex, true
		}
		return st.kv.index, false
	})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, notFound(w)
	case q.Has("raw"):
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "sandbox")
		write(w, http.StatusOK, typeText, entry.Value)
		return nil, errAnswered
	}
	return []kvEntry{entry}, nil
}

func (s kvAPI) kvList(w http.ResponseWriter, r *http.Request, prefix string) (any, error) {
	var entries []kvEntry
	err := s.read(w, r, func(st *state) (index uint64) {
		entries, index = st.kv.list(prefix)
		return index
	})
	if err != nil {
		return nil, err
	}
	if s.filter(w, r, len(entries)) || len(entries) == 0 {
		return nil, notFound(w)
	}
	return entries, nil
}

func (s kvAPI) kvKeys(w http.ResponseWriter, r *http.Request, prefix string, q url.Values) (any, error) {
	separator := q.Get("separator")
	if separator == "" {
		separator = q.Get("seperator") // Consul took it so for years
	}
	var keys []string
	err := s.read(w, r, func(st *state) uint64 {
		entries, index := st.kv.list(prefix)
		keys = []string{}
		for _, entry := range entries {
			key := entry.Key
			if i := strings.Index(key[len(prefix):], separator); separator != "" && i >= 0 {
				key = key[:len(prefix)+i+len(separator)]
			}
			if len(keys) == 0 || keys[len(keys)-1] != key {
				keys = append(keys, key)
			}
		}
		return index
	})
	if err != nil {
		return nil, err
	}
	if s.filter(w, r, len(keys)) {
		keys = keys[:0]
	}
	if len(keys) == 0 && prefix != "" {
		return nil, notFound(w)
	}
	return keys, nil
}

// conflicting refuses parameters that cannot go together.
func conflicting(q url.Values, names ...string) error {
	given := slices.DeleteFunc(names, func(name string) bool { return !q.Has(name) })
	if len(given) > 1 {
		return badRequest("Conflicting flags: %v\n", q.Encode())
	}
	return nil
}

// parseCAS reads the index that a compare-and-set wants to find.
func parseCAS(q url.Values) (cas uint64, given bool, err error) {
	if !q.Has("cas") {
		return 0, false, nil
	}
	cas, err = strconv.ParseUint(q.Get("cas"), 10, 64)
	return cas, true, err
}

func (s kvAPI) kvPut(r *http.Request, key string, q url.Values) (any, error) {
	if key == "" {
		return nil, errMissingKey
	}
	if err := conflicting(q, "cas", "acquire", "release"); err != nil {
		return nil, err
	}
	entry := kvEntry{Key: key}
	cas, given, err := parseCAS(q)
	if err == nil && q.Has("flags") {
		entry.Flags, err = strconv.ParseUint(q.Get("flags"), 10, 64)
	}
	if err != nil {
		return nil, err
	}
	if entry.Value, err = kvBody(r); err != nil {
		return nil, err
	}
	if err := s.require(r, "key:write", key); err != nil {
		return nil, err
	}
	if q.Has("acquire") { // no session exists here
		return nil, fmt.Errorf("raft apply failed: invalid session %q", q.Get("acquire"))
	}
	if q.Has("release") {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	idx := s.st.next()
	if given && s.st.kv.entries[key].ModifyIndex != cas {
		return false, nil
	}
	if err := s.st.kv.put(entry, idx); err != nil {
		return nil, err
	}
	s.st.wake()
	return true, nil
}

func kvBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf(
			"Request body(%d bytes) too large, max size: %d bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size.",
			r.ContentLength, maxBody)}
	}
	value, err := readBody(r)
	if len(value) == 0 {
		value = nil // Consul shows an empty value as null
	}
	return value, err
}

func (s kvAPI) kvDelete(r *http.Request, key string, q url.Values) (any, error) {
	if err := conflicting(q, "recurse", "cas"); err != nil {
		return nil, err
	}
	if key == "" && !q.Has("recurse") {
		return nil, errMissingKey
	}
	cas, given, err := parseCAS(q)
	if err != nil {
		return nil, err
	}
	if err := s.require(r, "key:write", key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	idx := s.st.next()
	if q.Has("recurse") {
		entries, _ := s.st.kv.list(key)
		for _, entry := range entries {
			s.st.kv.remove(entry.Key, idx)
		}
		s.st.wake()
		return true, nil
	}
	if entry, ok := s.st.kv.entries[key]; given && ok && entry.ModifyIndex != cas {
		return false, nil
	}
	s.st.kv.remove(key, idx)
	s.st.wake()
	return true, nil
}
