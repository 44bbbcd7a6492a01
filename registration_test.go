package meshlite_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Case G3
func TestRegistrationMistakesAreErrorsAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		opt  meshlite.ServerOption
		want []string
	}{
		"zone alone":       {meshlite.WithLocality("", "eu-a"), []string{"WithLocality", `"eu-a"`, "region"}},
		"short TTL":        {meshlite.WithRegistration(catalog.Registration{TTL: time.Second}), []string{"WithRegistration", "TTL 1s", "3s"}},
		"metadata key":     {meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Metadata: map[string]string{"a.b": "c"}}}), []string{"Metadata", `"a.b"`}},
		"empty tag":        {tagged("", "v1", ""), []string{"Tags", "empty"}},
		"weight of Consul": {meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Weight: 70000}}), []string{"Weight", "65535"}},
	} {
		t.Run(name, func(t *testing.T) {
			mustExplain(t, test.want, func() error {
				_, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), test.opt)
				return err
			})
		})
	}
	mustExplain(t, []string{"WithRegistration", "CheckAddress", "TTL"}, func() error {
		_, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithRegistration(catalog.Registration{TTL: time.Minute, CheckAddress: "127.0.0.1:80"}))
		return err
	})
}

func TestLocalityReachesClients(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"}, meshlite.WithLocality("eu-west-1", "eu-west-1a"))
	entries, err := m.directory.Entries(t.Context(), catalogQuery("catalog"))
	if err != nil || len(entries) != 1 || entries[0].Region != "eu-west-1" || entries[0].Zone != "eu-west-1a" {
		t.Errorf("the entries are %+v, %v", entries, err)
	}
}

// With a TTL, the server itself reports to Consul what SetServing says.
func TestTTLCheckFollowsSetServing(t *testing.T) {
	m := newMesh(t)
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(t)), meshlite.WithDrain(0, time.Second), meshlite.WithRegistration(catalog.Registration{TTL: 3 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	await := func(n int) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for len(m.instances("catalog")) != n {
			if time.Now().After(deadline) {
				t.Fatalf("%d instances are passing, want %d", len(m.instances("catalog")), n)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	await(1)
	server.SetServing("", false)
	await(0)
	entries, err := m.directory.Entries(t.Context(), catalogQuery("catalog"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("the entries are %+v, %v", entries, err)
	}
	for _, c := range entries[0].Checks {
		if c.Name == "TTL" && !strings.Contains(c.Output, "NOT_SERVING") {
			t.Errorf("the check says %q, want the reason", c.Output)
		}
	}
	server.SetServing("", true)
	await(1)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
