package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

func consulClient(t *testing.T) *api.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: os.Getenv("CONSUL_HTTP_ADDR"), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// call is "call --plaintext" with what follows.
func call(t *testing.T, args ...string) result {
	t.Helper()
	return runTool(t, append([]string{"call", "--plaintext"}, args...)...)
}

func TestCall(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 2)
	agent := os.Getenv("CONSUL_HTTP_ADDR")
	file := filepath.Join(t.TempDir(), "request.json")
	if err := os.WriteFile(file, []byte(`{"id": "from-file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args     []string
		code     int
		out, err string
	}{
		"by service": {[]string{"consul:///catalog", getSweet, "-d", `{"id": "humbug"}`}, 0,
			"{\n  \"sweet\": {\n    \"id\": \"humbug\"\n  }\n}\n", "OK from catalog-127-0-0-1-"},
		"by agent and policy": {[]string{"consul://" + agent + "/catalog?policy=round_robin", "/" + getSweet}, 0, `"sweet": {}`, ""},
		"by gRPC's policy":    {[]string{"consul:///catalog?policy=grpc:round_robin", getSweet}, 0, `"sweet": {}`, "OK from 127.0.0.1:"},
		"method with a dot":   {[]string{"consul:///catalog", strings.ReplaceAll(getSweet, "/", ".")}, 0, `"sweet": {}`, ""},
		"request in a file":   {[]string{"consul:///catalog", getSweet, "-d", "@" + file}, 0, `"from-file"`, ""},
		"metadata": {[]string{"consul:///catalog", getSweet, "--metadata", "customer-id: ada", "-H", "Customer-Id:bob", "-H", "token-bin: AAE="}, 0,
			`"name": "ada;bob;\u0000\u0001;"`, ""},
		"health": {[]string{"consul:///catalog", "grpc.health.v1.Health/Check"}, 0, `"status": "SERVING"`, ""},

		"a refusal with a detail": {[]string{"consul:///catalog", getSweet, "-d", `{"id": "limited"}`}, 1, "",
			`GetSweet: ResourceExhausted: too many; ` + "\ufffd" + `[2Jcalls; retry in 2s; from catalog-127-0-0-1-`},
		"too slow":         {[]string{"consul:///catalog", getSweet, "-d", `{"id": "slow"}`, "--timeout", "200ms"}, 1, "", ": is --timeout 200ms enough?; from catalog-"},
		"unknown service":  {[]string{"consul:///catalogue", getSweet}, 1, "", `consul at ` + agent + ` has no healthy instance of "catalogue"`},
		"unknown contract": {[]string{"consul:///catalog", "sweetshop.catalog.v1.Catalog/GetSweet"}, 1, "", `the server has no service "sweetshop.catalog.v1.Catalog": it offers sweetshop.catalog.v1.CatalogService, `},
		"unknown method":   {[]string{"consul:///catalog", getSweet + "s"}, 1, "", `has no method "GetSweets": it has GetSweet, ListSweets, ListSections`},
		"unknown field":    {[]string{"consul:///catalog", getSweet, "-d", `{"idd": "x"}`}, 2, "", `-d: sweetshop.catalog.v1.GetSweetRequest: (line 1:2): unknown field "idd" (GetSweetRequest has id)`},
		"bad JSON":         {[]string{"consul:///catalog", getSweet, "-d", `{"id": `}, 2, "", `-d: sweetshop.catalog.v1.GetSweetRequest: unexpected EOF`},
		"a client stream":  {[]string{"consul:///catalog", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}, 2, "", "takes a stream of requests, and this command sends one"},
		"a stream often":   {[]string{"consul:///catalog", "grpc.health.v1.Health/Watch", "-n", "2"}, 2, "", "-n 2: grpc.health.v1.Health/Watch answers with a stream"},
		"nobody listens":   {[]string{"127.0.0.1:1", getSweet}, 1, "", "connection refused\": is a server running there?"},
	} {
		t.Run(name, func(t *testing.T) {
			r := call(t, test.args...)
			r.want(t, test.code, test.out, test.err)
			if r.code != 0 && strings.Count(r.err, "\n") != 1 {
				t.Errorf("stderr %q, want one line", r.err)
			}
		})
	}
}

func TestCallReadsStdin(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	r := meshliteWith(t.Context(), `{"id": "from-stdin"}`, "call", "--plaintext", "consul:///catalog", getSweet, "-d", "-")
	r.want(t, 0, `"from-stdin"`, "")
}

func TestCallAsJSON(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	type report struct {
		Instance, Address, Code, Message string
		Details                          []map[string]any
		DurationMS                       float64 `json:"duration_ms"`
		Response                         json.RawMessage
		Header, Trailer                  map[string][]string
	}
	ask := func(id string, code int) (r report) {
		t.Helper()
		done := call(t, "consul:///catalog", getSweet, "-d", `{"id": "`+id+`"}`, "-o", "json")
		done.want(t, code, "", "")
		if err := json.Unmarshal([]byte(done.out), &r); err != nil {
			t.Fatalf("%v in %s", err, done.out)
		}
		if !strings.HasPrefix(r.Instance, "catalog-127-0-0-1-") || !strings.HasPrefix(r.Address, "127.0.0.1:") || r.DurationMS <= 0 {
			t.Errorf("got %s", done.out)
		}
		return r
	}
	if r := ask("humbug", 0); r.Code != "OK" || r.Message != "" || !strings.Contains(string(r.Response), `"humbug"`) ||
		r.Header["content-type"][0] != "application/grpc" || r.Trailer["seen-bin"][0] != "AAE=" {
		t.Errorf("got %+v", r)
	}
	if r := ask("limited", 1); r.Code != "ResourceExhausted" || r.Message != "too many\n\x1b[2Jcalls" || r.Response != nil || r.Details[0]["retryDelay"] != "2s" {
		t.Errorf("got %+v", r)
	}
}

// The contract asks clients to keep answers and to retry. The tool does neither.
func TestCallGoesToAServer(t *testing.T) {
	openAgent(t)
	shop := openReflectingShop(t, "catalog", 1)
	call(t, "consul:///catalog", getSweet, "-n", "5").want(t, 0, " 5 ", "5 calls in ")
	if shop.calls != 5 {
		t.Errorf("the server had %d calls, want 5", shop.calls)
	}
}
