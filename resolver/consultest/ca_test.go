package consultest_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// The answers of the CA have the fields that a real agent's have.
func TestTheCAAnswersAsARealAgentDoes(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	server := httptest.NewServer(agent)
	defer server.Close()
	real := agenttest.Start(t)
	for _, path := range []string{"/v1/agent/connect/ca/leaf/catalog", "/v1/agent/connect/ca/roots"} {
		mine, theirs := fields(t, server.URL+path), fields(t, "http://"+real.Address+path)
		if !slices.Equal(mine, theirs) {
			t.Errorf("%s has %v, a real agent %v", path, mine, theirs)
		}
	}
}

// fields are the names in an answer, those of its first root included, which a real CA of a
// later version may have more of.
func fields(t *testing.T, url string) []string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]json.RawMessage
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(answer))
	var roots []map[string]any
	if list, ok := answer["Roots"]; ok {
		if err := json.Unmarshal(list, &roots); err != nil || len(roots) == 0 {
			t.Fatalf("%v: %s", err, list)
		}
		for _, name := range slices.Sorted(maps.Keys(roots[0])) {
			if name != "SigningKeyID" { // of Consul's own provider
				names = append(names, name)
			}
		}
	}
	return names
}

// A leaf is of the root that signs, and of the one before as long as that is trusted.
func TestTheCARotates(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
	if err != nil {
		t.Fatal(err)
	}
	read := func() (*api.LeafCert, int, error) {
		leaf, _, err := client.Agent().ConnectCALeaf("catalog", nil)
		if err != nil {
			t.Fatal(err)
		}
		roots, _, err := client.Agent().ConnectCARoots(nil)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		for _, root := range roots.Roots {
			pool.AppendCertsFromPEM([]byte(root.RootCertPEM))
		}
		pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return leaf, len(roots.Roots), err
	}
	first, roots, err := read()
	if err != nil || roots != 1 || first.ValidBefore.Sub(first.ValidAfter) != 72*time.Hour {
		t.Fatalf("%d roots, %v", roots, err)
	}
	if again, _, _ := read(); again.SerialNumber != first.SerialNumber {
		t.Error("a leaf is signed anew for each request")
	}
	agent.RotateCA()
	if _, roots, err := read(); roots != 2 || err != nil {
		t.Errorf("after a rotation: %d roots, %v", roots, err)
	}
	agent.ReplaceCA()
	if other, roots, err := read(); roots != 1 || err != nil || other.ServiceURI == first.ServiceURI {
		t.Errorf("after a replacement: %d roots, %v", roots, err)
	}
	if n := len(agent.Signed()); n != 2 && n != 3 {
		t.Errorf("%d leaves were signed", n)
	}
}
