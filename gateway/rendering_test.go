package gateway_test

import (
	"context"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/gateway/edge"
)

// named takes each token for a subject.
type named struct{}

func (named) Verify(_ context.Context, token string) (string, error) { return token, nil }

// The renderings that a channel's cache keeps change no answer: a gateway with them and one
// without answer alike, whoever asks, by whatever route, fresh or expired.
//
// Case E5
func TestRenderingsChangeNoAnswer(t *testing.T) {
	for scope, policy := range map[string]string{
		"public": `ttl: "60s" scope: CACHE_SCOPE_PUBLIC vary: "accept-language"`, "private": `ttl: "60s" scope: CACHE_SCOPE_PRIVATE`,
	} {
		t.Run(scope, func(t *testing.T) {
			contract := strings.NewReplacer(`ttl: "0s" scope: CACHE_SCOPE_PUBLIC`, policy,
				`{get: "/v1/pies/{id}"}`, `{get: "/v1/pies/{id}" additional_bindings { get: "/v1/notes/{id}" response_body: "note" }}`).Replace(pies)
			first := compile(t, contract)
			second := compile(t, strings.Replace(contract, "string note = 2;", `string note = 2 [json_name = "remark"];`, 1))
			synctest.Test(t, func(t *testing.T) { comparesRenderings(t, newMesh(t), scope, first, second) })
		})
	}
}

func comparesRenderings(t *testing.T, m *mesh, scope string, first, second *protoregistry.Files) {
	defer m.end()
	var doors []*gateway.Gateway
	for _, keeps := range []bool{true, false} {
		service := m.service("bakery", "*")
		defer service.Close()
		service.KeepRenderings = keeps
		outside, err := edge.New(edge.Config{Logger: silent, Verifier: named{}, Headers: []string{"Accept-Language"}})
		if err != nil {
			t.Fatal(err)
		}
		g := newGateway(t, m, gateway.Config{Edge: outside, Services: []gateway.Service{service}})
		defer g.Close()
		doors = append(doors, g)
	}
	old := m.start("bakery", first)
	time.Sleep(5 * time.Second)
	etag := ""
	// asks has both doors answer three times: what is cached is rendered once more, and then kept.
	asks := func(path, want string, headers ...string) {
		t.Helper()
		for i := range 3 {
			var answers [2]*httptest.ResponseRecorder
			for k, door := range doors {
				r := httptest.NewRequest("GET", path, nil)
				for n := 0; n < len(headers); n += 2 {
					r.Header.Set(headers[n], headers[n+1])
				}
				answers[k] = httptest.NewRecorder()
				door.ServeHTTP(answers[k], r)
			}
			kept, plain := answers[0], answers[1]
			if kept.Code != plain.Code || kept.Body.String() != plain.Body.String() || !reflect.DeepEqual(kept.Header(), plain.Header()) {
				t.Errorf("%s %q, answer %d: %d %v %s, want %d %v %s", path, headers, i, kept.Code, kept.Header(), kept.Body, plain.Code, plain.Header(), plain.Body)
			}
			if !strings.Contains(kept.Body.String(), want) {
				t.Errorf("%s %q, answer %d: %d %s, want %s", path, headers, i, kept.Code, kept.Body, want)
			}
			etag = kept.Header().Get("Etag")
		}
	}
	asks("/v1/pies/apple", "bakery-1")
	time.Sleep(7 * time.Second) // has an Age from now on
	asks("/v1/pies/apple", `"id":"apple"`)
	asks("/v1/pies/apple", "", "If-None-Match", etag)
	asks("/v1/notes/apple", `"bakery-1`)
	asks("/v1/pies/apple", "bakery-1", "Accept-Language", "de")
	asks("/v1/pies/apple", "bakery-1", "Prefer", "wait=3")
	asks("/v1/pies/apple?connect=v1", "")
	ann, bob := "bakery-1 for ann", "bakery-1 for bob"
	if scope == "public" { // whoever asks first, before anybody had a name
		ann, bob = `bakery-1"`, `bakery-1"`
	}
	asks("/v1/pies/apple", ann, "Authorization", "Bearer ann")
	asks("/v1/pies/apple", bob, "Authorization", "Bearer bob")
	asks("/v1/pies/apple", ann, "Authorization", "Bearer ann")
	calls := func(i *instance) int { i.mu.Lock(); defer i.mu.Unlock(); return i.calls }
	before := calls(old)
	asks("/v1/pies/apple", ann, "Authorization", "Bearer ann")
	if n := calls(old) - before; n != 0 {
		t.Errorf("%d calls for what is cached, want none", n)
	}
	m.start("bakery", second)
	m.stop(old)
	time.Sleep(5 * time.Second)
	asks("/v1/pies/apple", `"remark":"bakery-1`, "Authorization", "Bearer ann") // the cached answer by the new contract
	time.Sleep(time.Minute)
	asks("/v1/pies/apple", `"remark":"bakery-2`, "Authorization", "Bearer ann")
}
