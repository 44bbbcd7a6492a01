package consultest_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// The simulation and a real Consul answer alike: status, text, and the names of
// headers.
func TestAnswersAsTheRealConsulDoes(t *testing.T) {
	standIn, real := clients(t)
	// Without it Consul refuses permissions, which are for HTTP services.
	do(t, real, "PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"grpc"}`)
	for _, request := range []message{
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
		compare(t, request, standIn, real)
	}
}

// clients reach a real Consul and the simulation.
func clients(t *testing.T) (standIn, real *http.Client) {
	t.Helper()
	agent := agenttest.Start(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s := consultest.New(consultest.WithNode("meshlite", "127.0.0.1"))
	t.Cleanup(s.Close)
	return &http.Client{Transport: s.Transport()}, &http.Client{Transport: redirect{agent.Address, transport}}
}

type message struct{ method, path, body string }

// compare sends a request to both, and reports whether they refused it.
func compare(t *testing.T, request message, standIn, real *http.Client) (refused bool) {
	t.Helper()
	got := do(t, standIn, request.method, request.path, request.body)
	want := do(t, real, request.method, request.path, request.body)
	if got.code != want.code || shape(got.body) != shape(want.body) {
		t.Errorf("%s %s %s:\ngot  %d %s\nwant %d %s", request.method, request.path, request.body, got.code, shape(got.body), want.code, shape(want.body))
	}
	if got, want := names(got.header), names(want.header); !slices.Equal(got, want) {
		t.Errorf("%s %s: got headers %v, want %v", request.method, request.path, got, want)
	}
	return want.code != http.StatusOK
}

// ofAgent is what differs from agent to agent: the trust domain, virtual IPs, what a parser
// expected and where, and which of the chains with a circle was compiled first.
var ofAgent = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}\.consul|240\.0\.0\.[0-9]+|` +
	`(?s:1:[0-9]+ \([0-9]+\): .*)|circular reference: .*`)

// shape is a body without what differs from agent to agent.
func shape(body string) string {
	body = ofAgent.ReplaceAllString(body, "...")
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
			if slices.Contains([]string{"CreateIndex", "ModifyIndex", "ContentHash", "Hash"}, key) || key == "ID" && v["Node"] != nil {
				delete(v, key)
			}
			erase(value)
		}
	}
}

func names(h http.Header) (of []string) {
	for name := range h {
		if name != "Content-Length" && name != "Transfer-Encoding" { // depend on how long the answer is
			of = append(of, name)
		}
	}
	slices.Sort(of)
	return of
}
