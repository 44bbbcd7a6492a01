//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// newEntry returns an empty one, or nil for an unknown kind.
func newEntry(kind string) anyEntry {
	switch kind {
	case defaultsKind:
		return new(serviceDefaults)
	case routerKind:
		return new(serviceRouter)
	case splitterKind:
		return new(serviceSplitter)
	case resolverKind:
		return new(serviceResolver)
	case proxyKind:
		return new(proxyDefaults)
	case intentionsKind:
		return new(intentionEntry)
	}
	return nil
}

// consulKinds are those that Consul has beside.
var consulKinds = []string{
	"api-gateway", "bound-api-gateway", "control-plane-request-limit", "exported-services", "file-system-certificate", "http-route",
	"ingress-gateway", "inline-certificate", "jwt-provider", "mesh", "sameness-group", "tcp-route", "terminating-gateway",
}

// checkKind returns an error with that status if Consul has no such kind.
func checkKind(kind string, status int) error {
	switch {
	case slices.Contains(consulKinds, kind):
		return badRequest("consultest: config entries of kind %q are not supported: only %s",
			kind, strings.Join([]string{defaultsKind, routerKind, splitterKind, resolverKind, proxyKind, intentionsKind}, ", "))
	case newEntry(kind) == nil:
		return httpError{status, "invalid config entry kind: " + kind}
	}
	return nil
}

// decodeEntry reads an entry as Consul does: the names of fields may be in snake case, and all
// that are unknown are named.
func decodeEntry(body []byte) (anyEntry, error) {
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
	if kind == defaultsKind || kind == proxyKind {
		for _, key := range keys {
			if slices.Contains(unsupportedDefaults, key) {
				return fmt.Sprintf("consultest: %s of %s is not supported: leave it out", key, kind)
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
