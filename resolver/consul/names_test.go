package consul_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// An agent takes ids that it can never name again: they are refused where they enter.
func TestAnIDThatCannotBeGivenBackIsRefused(t *testing.T) {
	for _, name := range []string{"/web", "web/", "web//1", "..", ".", "web/../x", "http://10.0.0.1:80/api", "web\n1", "web\x1b[2J", "web\x00", "web\xff", "web\u202e1"} {
		for field, r := range map[string]catalog.Registration{
			"ID":      {Instance: catalog.Instance{ID: name, Service: "web", Address: "127.0.0.1:8080"}},
			"Service": {Instance: catalog.Instance{ID: "web-1", Service: name, Address: "127.0.0.1:8080"}},
		} {
			if err := consul.Validate(r); err == nil || !strings.Contains(err.Error(), "consul: "+field+" ") {
				t.Errorf("%s %q: %v, want an error that names it", field, name, err)
			}
		}
	}
	for field, r := range map[string]catalog.Instance{
		"Tags":     {Tags: []string{"a", "b\n"}},
		"Region":   {Region: "r\x1b", Zone: "z"},
		"Zone":     {Region: "r", Zone: "z\x00"},
		"Metadata": {Metadata: map[string]string{"k": "\xff"}},
	} {
		r.ID, r.Service, r.Address = "web-1", "web", "127.0.0.1:8080"
		if err := consul.Validate(catalog.Registration{Instance: r}); err == nil || !strings.Contains(err.Error(), "consul: "+field) {
			t.Errorf("%s: %v, want an error that names it", field, err)
		}
	}
}

// What is taken can be given back, by a real agent too.
func TestWhatIsTakenCanBeGivenBack(t *testing.T) {
	onPlainAgents(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		for _, id := range []string{"web/1", "web 1", "web?x=1", "web#1", "web%2F1", "web%zz", "web;1&2=3", "wéb", "a..b", "...", "web:1@x", `w"e'b\`} {
			for _, ttl := range []time.Duration{0, time.Minute} {
				r := instance(id, "127.0.0.1:1")
				r.Service, r.TTL = "names", ttl
				lease, err := d.Register(t.Context(), r)
				if err != nil {
					t.Errorf("id %q, TTL %v: %v", id, ttl, err)
					continue
				}
				if err := lease.Deregister(t.Context()); err != nil {
					t.Errorf("id %q, TTL %v is not given back: %v", id, ttl, err)
				}
			}
		}
		entries, err := d.Entries(t.Context(), catalog.Query{Service: "names"})
		for deadline := time.Now().Add(10 * time.Second); len(entries) > 0 && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond) // the catalog is updated late
			entries, err = d.Entries(t.Context(), catalog.Query{Service: "names"})
		}
		if err != nil || len(entries) > 0 {
			t.Errorf("left behind: %+v, %v", entries, err)
		}
	})
}

// A service that no path can name is not asked for: the path would name another.
func TestAServiceThatNoPathNamesIsNotAskedFor(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	d := newDirectory(t, agent, consul.Config{})
	q := catalog.Query{Service: "../state/any"}
	if _, err := d.Entries(t.Context(), q); err == nil || !strings.Contains(err.Error(), "Service") {
		t.Errorf("its entries: %v, want an error that names it", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.Watch(ctx, q, func(s catalog.Snapshot, err error) {
		if err == nil {
			t.Errorf("a watch reports %+v", s)
		}
		cancel()
	})
	if n := d.Stats()[0].Requests; n != 0 {
		t.Errorf("%d requests were sent, want none", n)
	}
}
