package route

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Apply changes md: first Remove, then Set, then Add, as Envoy does. Keys of md are in lower
// case, as those of gRPC's metadata.MD. An empty value changes nothing.
func (h *Headers) Apply(md map[string][]string) {
	for _, key := range h.Remove {
		delete(md, key)
	}
	for key, value := range h.Set {
		if value != "" {
			md[key] = []string{value}
		}
	}
	for key, value := range h.Add {
		if value != "" {
			md[key] = append(slices.Clip(md[key]), value)
		}
	}
}

// changes are the keys of all headers that h changes.
func (h *Headers) changes() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, keys := range []iter.Seq[string]{maps.Keys(h.Add), maps.Keys(h.Set), slices.Values(h.Remove)} {
			for key := range keys {
				if !yield(key) {
					return
				}
			}
		}
	}
}

// Check reports the first change that a chain may not make, with what to write instead.
func (h *Headers) Check() error {
	if n := len(h.Add) + len(h.Set) + len(h.Remove); n > maxChanges {
		return fmt.Errorf("%d changes of headers: write %d at most", n, maxChanges)
	}
	for _, changes := range []map[string]string{h.Add, h.Set} {
		for _, key := range slices.Sorted(maps.Keys(changes)) {
			if err := checkChange(key); err != nil {
				return fmt.Errorf("sets the header %w", err)
			}
			if err := checkValue(key, changes[key]); err != nil {
				return fmt.Errorf("sets the header %q: %w", key, err)
			}
		}
	}
	for _, key := range h.Remove {
		if err := checkChange(key); err != nil {
			return fmt.Errorf("removes the header %w", err)
		}
	}
	return nil
}

// checkKey reports whether key may be in the metadata of a call.
func checkKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%.64q has %d letters: write 1 to %d", key, len(key), maxKey)
	}
	for _, r := range key {
		if !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r)) {
			return fmt.Errorf("%.64q has %q: write lower case letters, digits, '-', '_' and '.'", key, r)
		}
	}
	return nil
}

// ofTransport are the headers that the transport, and not a call, decides.
var ofTransport = []string{"connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent"}

// reserved reports whether a header is not in the metadata of calls: gRPC sets it.
func reserved(key string) bool {
	return strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-") || slices.Contains(ofTransport, key)
}

// checkChange reports whether a chain may change a header.
func checkChange(key string) error {
	switch {
	case reserved(key):
		return fmt.Errorf("%.64q, which the transport keeps to itself: write another", key)
	case strings.HasPrefix(key, "meshlite-"), strings.HasPrefix(key, "x-meshlite-"):
		return fmt.Errorf("%q, which callers trust to be meshlite's: write another", key)
	}
	return checkKey(key)
}

func checkValue(key, value string) error {
	switch {
	case strings.HasSuffix(key, "-bin"):
		return errors.New("it is binary: only remove it")
	case len(value) > maxChange:
		return fmt.Errorf("the value has %d bytes: write %d at most", len(value), maxChange)
	}
	for _, r := range value {
		if r < ' ' || r > '~' {
			return fmt.Errorf("the value has %q: write printable letters of ASCII", r)
		}
	}
	return nil
}
