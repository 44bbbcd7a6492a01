package main

import (
	"context"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/chaos"
)

// What the faults do to a mesh is tested in internal/e2e.
func TestChaosOnTheCommandLine(t *testing.T) {
	runTool(t, "chaos", "--only", "consul-forzen").want(t, 2, "", `meshlite: --only: fault "consul-forzen" is not known: write consul-restarted, `)
	runTool(t, "chaos", "now").want(t, 2, "", `argument "now" is not expected: see meshlite chaos --help`)
	help := runTool(t, "chaos", "--help")
	completed := runTool(t, "__complete", "chaos", "--only", "")
	for _, f := range chaos.Faults() {
		help.want(t, 0, "  "+f.Name+"\n", "")
		completed.want(t, 0, f.Name+"\t"+f.Does+"\n", "")
	}

	// Where nothing is found, that is said in one line.
	t.Setenv("PATH", "")
	t.Chdir(t.TempDir())
	r := meshliteWith(context.Background(), "", "chaos")
	r.want(t, 1, "", "meshlite: chaos needs a real Consul to break: no consul on PATH and none in .bin: install one, or in a checkout run `make consul`")
	if strings.Count(r.err, "\n") != 1 || r.out != "" {
		t.Errorf("stderr %q, stdout %q, want one line and nothing", r.err, r.out)
	}
}
