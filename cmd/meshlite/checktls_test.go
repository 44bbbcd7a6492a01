package main

import (
	"strings"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A check of Consul that fails by a certificate is not a matter of reachability.
func TestCheckOfFailingTLSChecks(t *testing.T) {
	const handshake = `rpc error: code = Unavailable desc = connection error: desc = "transport: authentication handshake failed: `
	for name, test := range map[string]struct{ output, fix string }{
		"another name": {handshake + `tls: failed to verify certificate: x509: certificate is valid for localhost, catalog, not 10.0.0.1"`,
			"clients do not call it while enough others are healthy: its check verifies the name 10.0.0.1, which its certificate does not have: issue one with that name, or set a name that it has, by CheckServerName of meshlite.WithRegistration\n"},
		"no name": {handshake + `tls: failed to verify certificate: x509: certificate is not valid for any names, but wanted to match catalog"`,
			"its check verifies the name catalog, which"},
		"no address": {handshake + `tls: failed to verify certificate: x509: cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs"`,
			"its check verifies the name 10.0.0.1, which"},
		"another authority": {handshake + `tls: failed to verify certificate: x509: certificate signed by unknown authority"`,
			"its check does not trust the authority of its certificate: add it to the roots of the agent's machine, or let the check accept any certificate, by CheckSkipVerify of meshlite.WithRegistration\n"},
		"out of date": {handshake + `tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2030-01-01T00:00:00Z is after 2029-01-01T00:00:00Z"`,
			"its certificate is not valid now: renew it"},
		"a client's certificate": {`rpc error: code = Unavailable desc = connection error: desc = "error reading server preface: remote error: tls: certificate required"`,
			"it requires a client certificate, which the agent does not have: serve checks separately by meshlite.WithHealthListener, or set the TTL of meshlite.WithRegistration\n"},
		"plaintext":   {handshake + `tls: first record does not look like a TLS handshake"`, "its check speaks TLS, and it speaks plaintext"},
		"not reached": {`dial tcp 10.0.0.1:80: i/o timeout`, "can the agent on node consultest reach the address of the check?\n"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := openAgent(t)
			s := consultest.Service{ID: "catalog-1", Name: "catalog", Checks: []consultest.Check{{CheckID: "tls", Name: "grpc", TTL: time.Hour, Status: "passing"}}}
			s.Address, s.Port = splitAddress(t, openHealth(t, healthv1.HealthCheckResponse_SERVING, nil))
			if err := agent.Register(s); err != nil {
				t.Fatal(err)
			}
			if err := consulClient(t).Agent().UpdateTTL("tls", test.output, "critical"); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return strings.Contains(runTool(t, "check", "catalog").out, "critical") })
			r := runTool(t, "check", "catalog")
			r.want(t, 1, test.fix, "")
			if reach := strings.Contains(r.out, "reach the address of the check"); reach != (name == "not reached") {
				t.Errorf("the hint is about reachability: %s", r.out)
			}
		})
	}
}
