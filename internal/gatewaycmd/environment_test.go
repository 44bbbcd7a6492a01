package gatewaycmd

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A gateway listens, registers and logs as the environment says, where no flag does.
func TestTheEnvironmentSetsWhatNoFlagSets(t *testing.T) {
	agent := consultest.New()
	t.Cleanup(agent.Close)
	consulAddress, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen, metrics := freeport.For(t), freeport.For(t)
	for variable, value := range map[string]string{
		envListen: listen, envMetrics: metrics, envRegion: "eu", envZone: "eu-1", envLogLevel: "error",
	} {
		t.Setenv(variable, value)
	}
	args := []string{"--http", "web=/web/,http://127.0.0.1:1", "--http-addr", consulAddress, "--register"}
	g := startWhere(t, args...)
	if g.Address != "http://"+listen || g.MetricsAddress != metrics {
		t.Errorf("it serves at %s, and its page at %s; want %s and %s", g.Address, g.MetricsAddress, listen, metrics)
	}
	if log := g.log.String(); log != "" {
		t.Errorf("at level error it logs %s", log)
	}
	instance := registered(t, consulAddress)
	if instance.Region != "eu" || instance.Zone != "eu-1" {
		t.Errorf("it is registered in %q, %q; want eu, eu-1", instance.Region, instance.Zone)
	}

	other := startWhere(t, append(args, "--listen", "127.0.0.1:0", "--metrics-address", "", "--name", "other")...)
	if other.Address == "http://"+listen || other.MetricsAddress != "" {
		t.Errorf("with flags it serves at %s, and its page at %q", other.Address, other.MetricsAddress)
	}
}

// registered is the gateway in Consul.
func registered(t *testing.T, address string) (found catalog.Instance) {
	t.Helper()
	directory, err := consul.New(consul.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	directory.Watch(ctx, catalog.Query{Service: "gateway"}, func(s catalog.Snapshot, err error) {
		if err == nil && len(s.Instances) > 0 {
			found = s.Instances[0]
			cancel()
		}
	})
	return found
}

// What is wrong in the environment is an error of the command line that names the variable.
func TestAWrongEnvironmentIsNamed(t *testing.T) {
	for variable, value := range map[string]string{
		envListen: "8080", envMetrics: "here", envZone: "eu-1", envLogLevel: "loud",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, value)
			cmd := Command()
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			cmd.SetArgs([]string{"--http", "web=/web/,http://127.0.0.1:1"})
			cmd.SetOut(io.Discard)
			cmd.SetErr(io.Discard)
			err := cmd.ExecuteContext(t.Context())
			isUsage(t, variable, err, variable)
			if err != nil && !strings.Contains(err.Error(), value) {
				t.Errorf("%v does not show the value %q", err, value)
			}
		})
	}
}
