package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func write(t *testing.T, agent *consultest.Server, destination, sources string) {
	t.Helper()
	if err := agent.SetIntentions(destination, sources); err != nil {
		t.Fatal(err)
	}
}

// Case I9
func TestIntentionsCheck(t *testing.T) {
	agent := openAgent(t)
	runTool(t, "intentions", "check", "web", "catalog").want(t, 0, "✓ web => catalog: allowed by default\n    default: allow\n", "")

	write(t, agent, "*", `[{"Name":"web","Action":"deny"}]`)
	write(t, agent, "catalog", `[{"Name":"web","Permissions":[
		{"Action":"deny","HTTP":{"PathExact":"/shop.Catalog/Add"}},
		{"Action":"allow","HTTP":{"PathPrefix":"/shop.Catalog/","Header":[{"Name":"tenant","Exact":"a"}]}}]},
		{"Name":"api","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"},"JWT":{"Providers":[{"Name":"okta"}]}}]},
		{"Name":"far","Peer":"east","Action":"allow"}]`)
	refused := "  ! far => catalog: SourcePeer \"east\": peers are not supported\n"
	const jwt = "api => catalog: Permissions[0].JWT: tokens are not verified here\n"
	runTool(t, "intentions", "check", "web", "catalog", "shop.Catalog/Get", "-H", "tenant: a").want(t, 0,
		"✓ web => catalog shop.Catalog/Get: allowed by web => catalog permission 2\n    without that intention: denied by web => *\n    default: allow\n  ! "+jwt+refused, "")
	runTool(t, "intentions", "check", "web", "catalog", "/shop.Catalog/Add").want(t, 0, "✗ web => catalog /shop.Catalog/Add: denied by web => catalog permission 1\n", "")
	runTool(t, "intentions", "check", "web", "catalog", "shop.Catalog/Get").want(t, 0,
		"✓ web => catalog shop.Catalog/Get: allowed by default\n    no permission of web => catalog matches\n    without that intention: denied by web => *\n", "")
	runTool(t, "intentions", "check", "api", "catalog", "shop.Catalog/Get").want(t, 0,
		"✗ api => catalog shop.Catalog/Get: denied by api => catalog\n    the intention is not understood: Permissions[0].JWT: tokens are not verified here\n    without that intention: allowed by default\n", "")
	runTool(t, "intentions", "check", "web", "prices").want(t, 0, "✗ web => prices: denied by web => *\n    without that intention: allowed by default\n", "")

	var output struct {
		Allowed     bool
		Rule        string
		Without     *struct{ Allowed bool }
		Refused     []string
		TrustDomain string `json:"trust_domain"`
	}
	r := runTool(t, "intentions", "check", "web", "catalog", "shop.Catalog/Get", "-H", "tenant:a", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &output); err != nil || !output.Allowed || output.Without == nil || output.Without.Allowed || len(output.Refused) != 2 || output.TrustDomain != agent.TrustDomain() {
		t.Errorf("%v: %s", err, r.out)
	}

	runTool(t, "intentions", "check", "web", "catalog").want(t, 2, "", "permissions decide about web => catalog: write METHOD, as package.Service/Method")
	runTool(t, "intentions", "check", "web").want(t, 2, "", "takes SRC DST [METHOD], not 1 arguments")
	runTool(t, "intentions", "check", "web", "*").want(t, 2, "", "write the name of a service")
	runTool(t, "intentions", "check", "web", "catalog", "a/b", "-H", "x").want(t, 2, "", "write key:value")
	runTool(t, "intentions", "check", "web", "catalog", "--http-addr", closedPort(t)).want(t, 1, "", "refused the connection")
}

// The intentions of a contract are read without an agent.
func TestIntentionsCheckOfAContract(t *testing.T) {
	dir := t.TempDir()
	written := func(name, list string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		text := `syntax = "proto3"; package pies.v1;
import "meshlite/policy/v1/policy.proto";
message M {}
service PieService {
  option (meshlite.policy.v1.service) = {intentions: {` + list + `}};
  rpc Get(M) returns (M);
}
service CakeService { rpc Get(M) returns (M); }`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pies := written("pies.proto", `sources: [
		{name: "*", action: INTENTION_ACTION_DENY},
		{name: "till", permissions: {action: INTENTION_ACTION_ALLOW, headers: {name: "tenant", exact: "a"}}},
		{name: "spiffe://example.org/shop/web", action: INTENTION_ACTION_ALLOW}]`)
	check := func(contract string, args ...string) result {
		t.Helper()
		return runTool(t, append([]string{"intentions", "check", "--proto", contract, "--http-addr", closedPort(t)}, args...)...)
	}
	const get = "pies.v1.PieService/Get"
	check(pies, "till", "pies", get, "-H", "tenant: a").want(t, 0, "✓ till => pies "+get+": allowed by till => pies permission 1\n    without that intention: denied by * => pies\n    default: deny\n", "")
	check(pies, "till", "pies", get).want(t, 0, "✗ till => pies "+get+": denied by default\n    no permission of till => pies matches\n", "")
	check(pies, "ops", "pies", "/"+get).want(t, 0, "✗ ops => pies /"+get+": denied by * => pies\n", "")
	check(pies, "spiffe://example.org/shop/web", "pies", get).want(t, 0, "allowed by spiffe://example.org/shop/web => pies\n    without that intention: denied by its identity\n", "")
	check(pies, "spiffe://example.org/shop/ops", "pies", get).want(t, 0, "denied by its identity\n    no source is this id", "")
	check(pies, "spiffe://example.org/ns/default/dc/dc1/svc/till", "pies", get, "-H", "tenant: a").want(t, 0, "allowed by till => pies permission 1\n", "")
	check(pies, "ops", "pies", "pies.v1.CakeService/Get").want(t, 0, "allowed by default\n    the contract has no intentions about pies.v1.CakeService\n    default: allow\n", "")

	check(pies, "ops", "pies").want(t, 2, "", "write METHOD, as package.Service/Method")
	check(pies, "ops", "pies", "pies.v1.PieService/Eat").want(t, 2, "", `no method "pies.v1.PieService/Eat"`)
	check(written("wrong.proto", `sources: {name: "till"}`), "till", "pies", get).want(t, 1, "", "intentions.sources[0].action: INTENTION_ACTION_UNSPECIFIED is no action: write INTENTION_ACTION_ALLOW")
	runTool(t, "intentions", "check", "till", "pies", get, "-I", dir).want(t, 2, "", "--proto-path without --proto")
}
