package meshlite_test

import (
	"crypto/tls"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// A real Consul with enable_agent_tls_for_checks presents its certificate to servers that
// demand one, if their registration says what it verifies, and trusts its own authorities
// alone. What the server logs is what Consul does.
//
// Case G6
func TestConsulChecksWithTheAgentsCertificate(t *testing.T) {
	agent := agenttest.StartSecured(t, func(s *consulagent.Security) { s.ForChecks = true })
	t.Setenv("CONSUL_HTTP_TOKEN", agenttest.Management) // of checked
	named := meshlite.WithRegistration(catalog.Registration{CheckServerName: "catalog"})
	skipping := meshlite.WithRegistration(catalog.Registration{CheckSkipVerify: true})
	private := certtest.New(t)
	ofAgent := agent.Authority.Issue(t, "catalog")
	for name, test := range map[string]struct {
		opts         []meshlite.ServerOption
		says, status string
		output       string
	}{
		"mutual, name":               {[]meshlite.ServerOption{serverTLS(ofAgent, mutual(agent.Authority)), named}, `with the agent's certificate, verified for \"catalog\" by the agent's authorities`, api.HealthPassing, ": success"},
		"mutual of TLS 1.2":          {[]meshlite.ServerOption{serverTLS(ofAgent, mutual(agent.Authority), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), named}, "with the agent's certificate, verified", api.HealthPassing, ": success"},
		"mutual, skip":               {[]meshlite.ServerOption{serverTLS(private.Issue(t, "catalog"), mutual(agent.Authority)), skipping}, "with the agent's certificate, the certificate is not verified", api.HealthPassing, ": success"},
		"mutual, nothing said":       {[]meshlite.ServerOption{serverTLS(ofAgent, mutual(agent.Authority))}, "three times in 15s: the server demands a client's certificate", api.HealthPassing, "self-check passed"},
		"another authority's":        {[]meshlite.ServerOption{serverTLS(ofAgent, mutual(private)), named}, "with the agent's certificate, verified", api.HealthCritical, "error"},
		"an authority of the system": {[]meshlite.ServerOption{serverTLS(trusted.Issue(t, "catalog"))}, "the certificate is not verified", api.HealthPassing, ": success"},
		"name":                       {[]meshlite.ServerOption{serverTLS(ofAgent), named}, `verified for \"catalog\" by the agent's authorities`, api.HealthPassing, ": success"},
	} {
		t.Run(name, func(t *testing.T) {
			log := &logged{}
			directory, err := consul.New(consul.Config{Address: agent.Address, Token: agenttest.Management, Heartbeat: time.Second, Logger: slog.New(slog.NewTextHandler(log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer directory.Close()
			ended, stop := secured(t, directory, log, test.opts...)
			defer stop()
			if c := checked(t, directory, ended); c.Status != test.status || !strings.Contains(c.Output, test.output) {
				t.Errorf("Consul's check says %v: %q, want %v", c.Status, c.Output, test.status)
			}
			if line := log.line("msg=serving"); !strings.Contains(line, test.says) {
				t.Errorf("the log says %q, want %q in it", line, test.says)
			}
			if test.status == api.HealthCritical {
				awaitLines(t, log, 1, "reports this instance as critical")
			}
		})
	}
}

// Without enable_agent_tls_for_checks the agent has no certificate for a server that is to be
// checked by TLS: it does not start, and says what to set. One whose callers are services
// accepts no agent at all.
//
// Case G6
func TestAnAgentWithoutTLSForChecks(t *testing.T) {
	agent := agenttest.StartSecured(t)
	named := meshlite.WithRegistration(catalog.Registration{CheckServerName: "catalog"})
	for name, test := range map[string]struct {
		security  func(*consul.Directory) meshlite.Option
		want, not string
	}{
		"certificates of one's own": {func(*consul.Directory) meshlite.Option {
			return serverTLS(agent.Authority.Issue(t, "catalog"), mutual(agent.Authority))
		}, "set enable_agent_tls_for_checks of the agent", "of the mesh"},
		"of services": {func(d *consul.Directory) meshlite.Option {
			return meshlite.WithTransportCredentials(identityOf(t, d, "catalog"))
		}, "it accepts those of services of the mesh alone: set WithHealthListener, or the TTL of WithRegistration", "enable_agent_tls"},
	} {
		t.Run(name, func(t *testing.T) {
			directory, err := consul.New(consul.Config{Address: agent.Address, Token: agenttest.Management, Logger: silent})
			if err != nil {
				t.Fatal(err)
			}
			defer directory.Close()
			ended, stop := secured(t, directory, &logged{}, test.security(directory), named)
			defer stop()
			if err := <-ended; err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), test.not) {
				t.Errorf("the server ended with %v, want %q", err, test.want)
			}
		})
	}
}
