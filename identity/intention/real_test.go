package intention_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
)

var update = flag.Bool("update", false, "write the documents of testdata anew, from a real Consul")

// agent is a real one.
type agent struct {
	t      *testing.T
	base   string
	client *http.Client
}

func newAgent(t *testing.T) *agent {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &agent{t, "http://" + agenttest.Start(t).Address, &http.Client{Transport: transport}}
}

func (a *agent) do(method, path, body string, into any) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.base+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	response, err := a.client.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		a.t.Fatalf("%s %s %s: %d %s %v", method, path, body, response.StatusCode, answer, err)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(answer, into); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) match(destination string) json.RawMessage {
	a.t.Helper()
	var all map[string]json.RawMessage
	a.do("GET", "/v1/connect/intentions/match?by=destination&name="+destination, "", &all)
	return all[destination]
}

// Case I6
func TestPrecedenceIsConsuls(t *testing.T) {
	a := newAgent(t)
	sets, inBatch := 1000, 50
	if testing.Short() {
		sets = 100
	}
	r := rand.New(rand.NewPCG(2, 17))
	compared := map[bool]int{}
	for batch := range sets / inBatch {
		everywhere := randomSet(r, false)
		if entry := entryOf(everywhere, "*", "*"); entry != "" {
			a.do("PUT", "/v1/config", entry, nil)
		} else {
			a.do("DELETE", "/v1/config/service-intentions/*", "", nil)
		}
		for n := range inBatch {
			destination := fmt.Sprintf("d-%d-%d", batch, n)
			if entry := entryOf(randomSet(r, false), "catalog", destination); entry != "" {
				a.do("PUT", "/v1/config", entry, nil)
			}
			parsed, err := intention.Parse(a.match(destination))
			if err != nil {
				t.Fatal(err)
			}
			rules, err := intention.Compile(destination, intention.Set{Intentions: parsed, Default: intention.Allow})
			if err != nil || len(rules.Refused()) > 0 {
				t.Fatal(err, rules.Refused())
			}
			for _, source := range []string{"web", "api", "stranger"} {
				var want struct{ Allowed bool }
				a.do("GET", "/v1/connect/intentions/check?source="+source+"&destination="+destination, "", &want)
				got := rules.Method("/a.B/C").From(source).Decide(nil)
				if got.Allowed != want.Allowed {
					t.Fatalf("%s => %s: allowed is %t by %q, Consul says %t:\n%s", source, destination, got.Allowed, got.Rule, want.Allowed, a.match(destination))
				}
				compared[got.Allowed]++
			}
		}
	}
	if compared[true] < sets/10 || compared[false] < sets/10 {
		t.Errorf("%v: the sets show little", compared)
	}
}

// golden is a document of testdata: config entries as they are written, and what Consul
// answers about a destination.
type golden struct {
	Write       []json.RawMessage
	Destination string
	Match       json.RawMessage `json:",omitempty"`
	Refused     []string        // what is not understood in it
	Allowed     []string        // sources that may call /shop.Catalog/Get with the header tenant: a
	Denied      []string
}

func eachGolden(t *testing.T, do func(t *testing.T, file string, g *golden)) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var g golden
			if err := json.Unmarshal(text, &g); err != nil {
				t.Fatal(err)
			}
			do(t, file, &g)
		})
	}
}

// The documents of testdata are what a real Consul answers.
func TestDocumentsAreConsuls(t *testing.T) {
	a := newAgent(t)
	eachGolden(t, func(t *testing.T, file string, g *golden) {
		a := &agent{t, a.base, a.client}
		for _, entry := range g.Write {
			a.do("PUT", "/v1/config", string(entry), nil)
		}
		defer a.do("DELETE", "/v1/config/service-intentions/*", "", nil)
		got := a.match(g.Destination)
		if *update {
			g.Match = withoutIndexes(t, got)
			text, err := json.MarshalIndent(g, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := withoutIndexes(t, g.Match); !bytes.Equal(withoutIndexes(t, got), want) {
			t.Errorf("Consul answers %s, want %s", got, g.Match)
		}
	})
}

func withoutIndexes(t *testing.T, list json.RawMessage) json.RawMessage {
	t.Helper()
	var all []map[string]any
	if err := json.Unmarshal(list, &all); err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		delete(one, "CreateIndex")
		delete(one, "ModifyIndex")
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Case I9
func TestDocumentsAreDecided(t *testing.T) {
	eachGolden(t, func(t *testing.T, _ string, g *golden) {
		parsed, err := intention.Parse(g.Match)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := intention.Compile(g.Destination, intention.Set{Intentions: parsed, Default: intention.Deny})
		if err != nil {
			t.Fatal(err)
		}
		if got := rules.Refused(); strings.Join(got, "\n") != strings.Join(g.Refused, "\n") {
			t.Errorf("refused are %q, want %q", got, g.Refused)
		}
		headers := func(key string) []string { return map[string][]string{"tenant": {"a"}}[key] }
		for want, sources := range map[bool][]string{true: g.Allowed, false: g.Denied} {
			for _, source := range sources {
				if got := rules.Explain(source, "/shop.Catalog/Get", headers); got.Allowed != want {
					t.Errorf("%s: allowed is %t by %q %s, want %t", source, got.Allowed, got.Rule, got.Reason, want)
				}
			}
		}
	})
}
