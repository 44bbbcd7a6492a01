package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

type operation struct {
	OperationID string
	Parameters  []parameter
	RequestBody *struct{ Content map[string]media }
	WebSocket   json.RawMessage `json:"x-websocket"`
}

type parameter struct {
	Name, In string
	Example  any
	Schema   struct{ Examples []any }
	Content  map[string]media
}

type media struct{ Example json.RawMessage }

// Requests are those that the examples of an OpenAPI document make, by operationId: one with
// all examples of an operation, and one for each parameter whose example excludes another.
func Requests(t testing.TB, document []byte) map[string]*http.Request {
	t.Helper()
	var d struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(document, &d); err != nil {
		t.Fatal(err)
	}
	all := map[string]*http.Request{}
	for path, item := range d.Paths {
		var others map[string]json.RawMessage
		if raw, ok := item["x-operations"]; ok {
			if err := json.Unmarshal(raw, &others); err != nil {
				t.Fatal(err)
			}
			delete(item, "x-operations")
		}
		for _, operations := range []map[string]json.RawMessage{item, others} {
			for method, raw := range operations {
				var op operation
				if err := json.Unmarshal(raw, &op); err != nil {
					t.Fatal(err)
				}
				if op.WebSocket == nil {
					op.add(t, all, strings.ToUpper(method), path)
				}
			}
		}
	}
	return all
}

func (op operation) add(t testing.TB, all map[string]*http.Request, method, path string) {
	t.Helper()
	if _, twice := all[op.OperationID]; twice {
		t.Errorf("operationId %q is there twice", op.OperationID)
	}
	all[op.OperationID] = op.request(t, method, path, op.Parameters)
	var inPath []parameter
	for _, p := range op.Parameters {
		if p.In == "path" {
			inPath = append(inPath, p)
		}
	}
	for _, p := range op.Parameters {
		if p.Example == nil && p.Content == nil && len(p.Schema.Examples) > 0 {
			p.Example = p.Schema.Examples[0]
			all[op.OperationID+"?"+p.Name] = op.request(t, method, path, append(inPath, p))
		}
	}
}

func (op operation) request(t testing.TB, method, path string, parameters []parameter) *http.Request {
	t.Helper()
	query := url.Values{}
	for _, p := range parameters {
		if p.Content != nil {
			if example := p.Content["application/json"].Example; example != nil {
				query.Set(p.Name, string(example))
			}
			continue
		}
		if p.In == "path" {
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(fmt.Sprint(p.Example)))
			continue
		}
		switch value := p.Example.(type) {
		case nil:
		case []any:
			for _, v := range value {
				query.Add(p.Name, fmt.Sprint(v))
			}
		case map[string]any:
			for key, v := range value {
				query.Set(p.Name+"["+key+"]", fmt.Sprint(v))
			}
		default:
			query.Set(p.Name, fmt.Sprint(value))
		}
	}
	var body []byte
	if op.RequestBody != nil {
		if body = op.RequestBody.Content["application/json"].Example; body == nil {
			t.Errorf("%s: its body has no example", op.OperationID)
		}
	}
	r, err := http.NewRequest(method, "http://gateway.example"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.RawQuery = query.Encode()
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}
