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

	// Without it Consul refuses permissions, which are for HTTP services.
	do(t, real, "PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"grpc"}`)
	for _, request := range []struct{ method, path, body string }{
		{"GET", "/v1/acl/token/self", ""},
		{"GET", "/v1/health/service/web?dc=nowhere", ""},
		{"GET", "/v1/catalog/datacenters", ""},
		{"PUT", "/v1/agent/service/register", `{"Name":"web","Port":80,"Locality":{"Region":"r","Zone":"z"}}`},
		{"GET", "/v1/health/service/web", ""},
		{"GET", "/v1/catalog/service/web", ""},
		{"GET", "/v1/agent/service/web", ""},
		{"GET", "/v1/connect/intentions/match?by=destination&name=web", ""},
		{"GET", "/v1/connect/intentions/match?name=web", ""},
		{"GET", "/v1/connect/intentions/match?by=destination", ""},
		{"GET", "/v1/connect/intentions/match?by=nobody&name=web", ""},
		{"PUT", "/v1/config", `{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"*","Action":"deny"},{"Name":"b","Action":"allow","Description":"x"},
			{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Methods":["POST"]}}]},{"Name":"a","Peer":"east","Action":"allow"}]}`},
		{"PUT", "/v1/config", `{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"b","Action":"deny"},{"Name":"*","Action":"allow"}]}`},
		{"PUT", "/v1/config", `{"Kind":"service-intentions","Name":"web","Sources":[]}`},
		{"PUT", "/v1/config", `{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"a"}]}`},
		{"PUT", "/v1/config", `{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`},
		{"GET", "/v1/connect/intentions/match?by=destination&name=web&name=other", ""},
		{"DELETE", "/v1/config/service-intentions/web", ""},
		{"DELETE", "/v1/config/service-intentions/web", ""},
		{"GET", "/v1/connect/intentions/match?by=destination&name=web", ""},
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
