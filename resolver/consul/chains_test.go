package consul_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

var update = flag.Bool("update", false, "write the discovery chains of testdata anew, from a real Consul")

// shape is one document of testdata/chains: config entries, what a real Consul compiles of
// them, and what is read from that.
type shape struct {
	Service    string            `json:"service"`
	Datacenter string            `json:"datacenter"`
	Entries    []json.RawMessage `json:"entries"`
	Answer     json.RawMessage   `json:"answer"`
	Chain      json.RawMessage   `json:"chain"` // null is plain discovery, or refused
	Refused    []string          `json:"refused,omitempty"`
	HTTP       json.RawMessage   `json:"http,omitempty"` // where only gRPC cannot mean it
}

func shapes(t *testing.T) map[string]*shape {
	t.Helper()
	paths, err := filepath.Glob("testdata/chains/*.json")
	if err != nil || len(paths) < 50 {
		t.Fatal(len(paths), err)
	}
	all := map[string]*shape{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := &shape{}
		if err := json.Unmarshal(text, s); err != nil {
			t.Fatal(path, err)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".json")] = s
	}
	return all
}

// read fills what is read from the answer.
func (s *shape) read(t *testing.T) {
	t.Helper()
	chain, err := answering(t, consul.Config{}, http.StatusOK, always(string(s.Answer))).Chain(t.Context(), s.Service, s.Datacenter)
	s.Chain, s.HTTP, s.Refused = document(t, chain), nil, nil
	var refused *route.RefusedError
	switch {
	case errors.As(err, &refused):
		if chain != nil || refused.Service != s.Service || refused.Index != 7 {
			t.Errorf("%v, with the chain %v", err, chain)
		}
		s.Refused = refused.Parts
		if refused.HTTP != nil {
			s.HTTP = document(t, refused.HTTP)
		}
	case err != nil:
		t.Error(err)
	}
}

func document(t *testing.T, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Case T7
func TestChainsAreReadAsConsulCompilesThem(t *testing.T) {
	for name, s := range shapes(t) {
		t.Run(name, func(t *testing.T) {
			read := *s
			read.read(t)
			if !sameJSON(t, read.Chain, s.Chain) || !sameJSON(t, read.HTTP, s.HTTP) || !slices.Equal(read.Refused, s.Refused) {
				t.Errorf("read %s, refused %q, for HTTP %s", read.Chain, read.Refused, read.HTTP)
			}
		})
	}
}

// The documents are what a real Consul answers: -update writes them.
func TestConsulCompilesTheChains(t *testing.T) {
	agent := agenttest.Start(t)
	for name, s := range shapes(t) {
		answer := s.compile(t, agent)
		if *update {
			s.Answer = answer
			s.read(t)
			text, err := json.MarshalIndent(s, "", "\t")
			if err == nil {
				err = os.WriteFile(filepath.Join("testdata/chains", name+".json"), append(text, '\n'), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !sameJSON(t, answer, s.Answer) {
			t.Errorf("%s: Consul answers %s", name, answer)
		}
	}
}

// compile writes the entries, reads the chain and removes the entries.
func (s *shape) compile(t *testing.T, agent *consulagent.Agent) json.RawMessage {
	t.Helper()
	for _, entry := range s.Entries {
		put(t, agent, string(entry))
	}
	answer, err := agent.Send(t.Context(), http.MethodGet, "/v1/discovery-chain/"+s.Service+"?compile-dc="+s.Datacenter, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range slices.Backward(s.Entries) {
		var named struct{ Kind, Name string }
		if err := json.Unmarshal(entry, &named); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.Send(t.Context(), http.MethodDelete, "/v1/config/"+named.Kind+"/"+named.Name, nil); err != nil {
			t.Fatal(err)
		}
	}
	return withoutItsOwn(answer)
}

var (
	trustDomain = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	virtualIPs  = regexp.MustCompile(`240\.0\.0\.\d+`)
)

// withoutItsOwn removes what differs from agent to agent.
func withoutItsOwn(answer []byte) json.RawMessage {
	answer = trustDomain.ReplaceAll(answer, []byte("00000000-0000-0000-0000-000000000000"))
	return virtualIPs.ReplaceAll(answer, []byte("240.0.0.1"))
}

func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	var values [2]any
	for i, text := range []json.RawMessage{a, b} {
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if err := json.Unmarshal(text, &values[i]); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}

// The agent that tests use compiles as Consul does.
func TestConsultestCompilesTheChains(t *testing.T) {
	compiled := 0
	for name, s := range shapes(t) {
		agent := consultest.New()
		if !slices.ContainsFunc(s.Entries, func(entry json.RawMessage) bool { return agent.WriteConfig([]byte(entry)) != nil }) {
			d := newDirectory(t, agent, consul.Config{})
			chain, err := d.Chain(t.Context(), s.Service, s.Datacenter)
			var refused *route.RefusedError
			switch {
			case errors.As(err, &refused):
				if !slices.Equal(refused.Parts, s.Refused) {
					t.Errorf("%s: refused %q", name, refused.Parts)
				}
			case err != nil:
				t.Errorf("%s: %v", name, err)
			default:
				if chain != nil {
					chain.Index = 7
				}
				if read := document(t, chain); !sameJSON(t, read, s.Chain) {
					t.Errorf("%s: read %s", name, read)
				}
			}
			d.Close()
			compiled++
		} else {
			t.Logf("%s has an entry that consultest refuses", name)
		}
		agent.Close()
	}
	if compiled < 45 {
		t.Errorf("%d chains are compiled", compiled)
	}
}

// Any answer is refused, or an error, or a chain that takes calls.
//
// Case T7
func FuzzChain(f *testing.F) {
	paths, err := filepath.Glob("testdata/chains/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		var s shape
		if err := json.Unmarshal(text, &s); err != nil {
			f.Fatal(err)
		}
		var answer bytes.Buffer
		if err := json.Compact(&answer, s.Answer); err != nil {
			f.Fatal(err)
		}
		f.Add(answer.String())
	}
	f.Fuzz(func(t *testing.T, answer string) {
		if len(answer) > 64<<10 {
			return
		}
		chain, err := answering(t, consul.Config{}, http.StatusOK, always(answer)).Chain(t.Context(), "catalog", "")
		var refused *route.RefusedError
		switch {
		case errors.As(err, &refused):
			if chain != nil || len(refused.Parts) == 0 || refused.HTTP != nil && refused.HTTP.Check() != nil {
				t.Errorf("%+v", refused)
			}
		case err == nil && chain != nil:
			if r, _ := chain.Match("/a.B/C", nil); r == nil || len(r.Arms) == 0 || len(chain.HTTPOnly()) > 0 {
				t.Errorf("%+v, %v", chain, chain.Check())
			}
		}
	})
}
