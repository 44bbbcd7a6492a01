package shop

import (
	"context"
	"fmt"
	"net/http"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Choice is which registry to start.
type Choice string

// The registries. Auto is a real Consul if there is one, else the embedded one.
const (
	Auto     Choice = ""
	Consul   Choice = "consul"
	Embedded Choice = "embedded"
)

// Registry is a running registry, empty at first.
type Registry struct {
	Name    string // "consul 1.22.7" or "embedded"
	Address string // host:port of its HTTP API
	Hint    string // how to get a real Consul; empty when it is one
	// Transport is what reaches Address, nil for the usual one.
	Transport http.RoundTripper

	stop func()
}

// Stop ends the registry and waits for it.
func (r *Registry) Stop() { r.stop() }

// ParseChoice reads what people write.
func ParseChoice(text string) (Choice, error) {
	switch c := Choice(text); c {
	case Auto, Consul, Embedded:
		return c, nil
	case "auto":
		return Auto, nil
	}
	return Auto, fmt.Errorf("registry %q is not known: write auto, consul or embedded", text)
}

// StartRegistry runs the registry that is chosen on a free port of loopback. A
// real Consul is the one on PATH, else the one that `make consul` has built.
func StartRegistry(ctx context.Context, choice Choice) (*Registry, error) {
	path, err := consulagent.Find()
	switch {
	case choice == Embedded:
		return startEmbedded("--registry=consul uses a real one: that on PATH, or of `make consul`")
	case err == nil:
		return startConsul(ctx, path)
	case choice == Consul:
		return nil, fmt.Errorf("registry consul: %w, or use --registry=embedded", err)
	default:
		return startEmbedded(err.Error())
	}
}

func startConsul(ctx context.Context, path string) (*Registry, error) {
	version, err := consulagent.Version(path)
	if err != nil {
		return nil, fmt.Errorf("registry consul: %w: is it a Consul for this machine? --registry=embedded does without", err)
	}
	agent, err := consulagent.Start(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("registry consul: %w", err)
	}
	return &Registry{Name: "consul " + version, Address: agent.Address, stop: agent.Stop}, nil
}

func startEmbedded(hint string) (*Registry, error) {
	agent := consultest.New()
	address, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		agent.Close()
		return nil, fmt.Errorf("registry embedded: %w", err)
	}
	return &Registry{Name: "embedded", Address: address, Hint: hint, stop: agent.Close}, nil
}
