package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
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
			"its check does not trust the authority of its certificate: add it to the roots of the agent's machine, or to ca_file of an agent with enable_agent_tls_for_checks, or let the check accept any certificate, by CheckSkipVerify of meshlite.WithRegistration\n"},
		"out of date": {handshake + `tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2030-01-01T00:00:00Z is after 2029-01-01T00:00:00Z"`,
			"its certificate is not valid now: renew it"},
		"a client's certificate": {`rpc error: code = Unavailable desc = connection error: desc = "error reading server preface: remote error: tls: certificate required"`,
			"it requires a client certificate of an authority that it trusts: an agent presents its own only with enable_agent_tls_for_checks, and the server must trust its authority, which servers with meshlite.ConsulIdentity never do: serve checks separately by meshlite.WithHealthListener, or set the TTL of meshlite.WithRegistration\n"},
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

// A server that demands a certificate of an authority of one's own is checked by a real Consul
// if the agent presents one; check says when it does not, and what to set.
func TestCheckOfServersThatDemandTheAgentsCertificate(t *testing.T) {
	for name, presents := range map[string]bool{"without": false, "with enable_agent_tls_for_checks": true} {
		t.Run(name, func(t *testing.T) {
			agent := agenttest.StartSecured(t, func(s *consulagent.Security) { s.ForChecks = presents })
			t.Setenv("CONSUL_HTTP_ADDR", agent.Address)
			t.Setenv("CONSUL_HTTP_TOKEN", agenttest.Management)
			server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
				Certificates: []tls.Certificate{agent.Authority.Issue(t, "catalog")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: agent.Authority.Roots,
			})))
			healthv1.RegisterHealthServer(server, health.NewServer())
			host, port := splitAddress(t, serveGRPC(t, server))
			check := &api.AgentServiceCheck{GRPC: net.JoinHostPort(host, strconv.Itoa(port)), GRPCUseTLS: true, TLSServerName: "catalog", TLSSkipVerify: true, Interval: "200ms", Timeout: "2s", Status: "warning"}
			client := consulClient(t)
			if err := client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "catalog-1", Name: "catalog", Address: host, Port: port, Check: check}); err != nil {
				t.Fatal(err)
			}
			want := map[bool]string{true: "passing", false: "critical"}[presents]
			eventually(t, func() bool { // the output of a check may come later than its state
				checks, _, err := client.Health().Checks("catalog", nil)
				return err == nil && len(checks) == 1 && checks[0].Status == want
			})
			pair := agent.Authority.Issue(t, "operator")
			key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
			if err != nil {
				t.Fatal(err)
			}
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, agent.Authority.PEM, 0o600); err != nil {
				t.Fatal(err)
			}
			r := runTool(t, "check", "catalog", "--cacert", ca, "--cert", writePEM(t, "CERTIFICATE", pair.Certificate[0]), "--key", writePEM(t, "PRIVATE KEY", key))
			if presents {
				r.want(t, 0, "✓ catalog-1", "")
				return
			}
			r.want(t, 1, "an agent presents its own only with enable_agent_tls_for_checks, and the server must trust its authority", "")
		})
	}
}
