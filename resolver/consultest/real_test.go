package consultest_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// The simulation and a real Consul answer alike: status, text, and the names of
// headers.
func TestAnswersAsTheRealConsulDoes(t *testing.T) {
	agent := agenttest.Start(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	real := &http.Client{Transport: redirect{agent.Address, transport}}
	s := consultest.New(consultest.WithNode("meshlite", "127.0.0.1"))
	defer s.Close()
	standIn := &http.Client{Transport: s.Transport()}

	for _, request := range []struct{ method, path, body string }{
		{"GET", "/v1/acl/token/self", ""},
		{"GET", "/v1/health/service/web?dc=nowhere", ""},
		{"GET", "/v1/catalog/datacenters", ""},
		{"PUT", "/v1/agent/service/register", `{"Name":"web","Port":80,"Locality":{"Region":"r","Zone":"z"}}`},
		{"GET", "/v1/health/service/web", ""},
		{"GET", "/v1/catalog/service/web", ""},
		{"GET", "/v1/agent/service/web", ""},
	} {
		got := do(t, standIn, request.method, request.path, request.body)
		want := do(t, real, request.method, request.path, request.body)
		if got.code != want.code || shape(got.body) != shape(want.body) {
			t.Errorf("%s %s: got %d %s, want %d %s", request.method, request.path, got.code, shape(got.body), want.code, shape(want.body))
		}
		if got, want := names(got.header), names(want.header); !slices.Equal(got, want) {
			t.Errorf("%s %s: got headers %v, want %v", request.method, request.path, got, want)
		}
	}
}

// shape is a body without what differs from agent to agent.
func shape(body string) string {
	var v any
	if json.Unmarshal([]byte(body), &v) != nil {
		return body
	}
	erase(v)
	shown, _ := json.Marshal(v)
	return string(shown)
}

func erase(v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			erase(item)
		}
	case map[string]any:
		for key, value := range v {
			if slices.Contains([]string{"CreateIndex", "ModifyIndex", "ContentHash"}, key) || key == "ID" && v["Node"] != nil {
				delete(v, key)
			}
			erase(value)
		}
	}
}

func names(h http.Header) (of []string) {
	for name := range h {
		if name != "Content-Length" { // depends on how long the names of nodes are
			of = append(of, name)
		}
	}
	slices.Sort(of)
	return of
}
