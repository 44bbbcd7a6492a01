package agenttest

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/consulagent"
)

// Management is the token with all rights of a [Secured] agent.
const Management = "11111111-2222-3333-4444-555555555555"

// Secured is an agent as in production: its APIs by TLS alone, gossip encrypted, ACLs that
// deny by default.
type Secured struct {
	*consulagent.Agent
	Authority *certtest.Authority // of its certificate
	t         testing.TB
}

// StartSecured runs a secured agent until the test ends. Until then the environment has its
// authority, so the test must not be parallel.
func StartSecured(t *testing.T, changes ...func(*consulagent.Security)) *Secured {
	t.Helper()
	path := Path(t)
	authority, dir := certtest.New(t), t.TempDir()
	leaf := authority.Issue(t, "127.0.0.1", "localhost", "server.dc1.consul")
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	security := consulagent.Security{
		CAFile:     put("ca.pem", authority.PEM),
		CertFile:   put("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})),
		KeyFile:    put("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		GossipKey:  base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))),
		Management: Management,
	}
	for _, change := range changes {
		change(&security)
	}
	t.Setenv("CONSUL_HTTP_SSL", "true")
	t.Setenv("CONSUL_CACERT", security.CAFile)
	agent, err := consulagent.StartSecured(t.Context(), path, security)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Kill)
	return &Secured{agent, authority, t}
}

// Send is that of the agent. out, if not nil, is what the answer is decoded into.
func (s *Secured) Send(method, path string, body, out any) {
	s.t.Helper()
	answer, err := s.Agent.Send(context.Background(), method, path, body)
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Token makes a token with the rights of a policy, whose text is in rules. Both are named
// name, and Secret, a UUID, is the token.
func (s *Secured) Token(name, secret, rules string) *Grant {
	s.t.Helper()
	g := &Grant{agent: s, name: name, secret: secret}
	s.Send(http.MethodPut, "/v1/acl/policy", map[string]any{"Name": name, "Rules": rules}, &g.policy)
	s.Send(http.MethodPut, "/v1/acl/token", map[string]any{"SecretID": secret, "Policies": []map[string]any{{"Name": name}}}, nil)
	return g
}

// Grant is a token and its policy.
type Grant struct {
	agent        *Secured
	name, secret string
	policy       struct{ ID string }
}

// Change replaces the rules of the policy.
func (g *Grant) Change(rules string) {
	g.agent.t.Helper()
	g.agent.Send(http.MethodPut, "/v1/acl/policy/"+g.policy.ID, map[string]any{"ID": g.policy.ID, "Name": g.name, "Rules": rules}, nil)
}

// Policy is the text of a policy in deploy/consul/policies, for a service named service.
// What is there is of the service catalog.
func Policy(t testing.TB, role, service string) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if text, err := os.ReadFile(filepath.Join(dir, "deploy", "consul", "policies", role+".hcl")); err == nil {
			return strings.ReplaceAll(string(text), `"catalog"`, `"`+service+`"`)
		}
	}
	t.Fatalf("no policy %q in deploy/consul/policies", role)
	return ""
}
