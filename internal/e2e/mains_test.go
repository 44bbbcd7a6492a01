package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A mistake in the environment or the flags of a service is reported in one
// line, and ends it with 1.
func TestServicesRefuseInOneLine(t *testing.T) {
	type row struct {
		port string
		args []string
		says string
	}
	all := []row{
		{"http", nil, `meshlite: WithListenAddress "http": write host:port, :port, or a port from 0 to 65535`},
		{"65536", nil, `meshlite: WithListenAddress "65536"`},
		{"", []string{"--metrics-address", "here"}, `meshlite: WithMetricsAddress "here"`},
		{"", []string{"now"}, `argument "now" is not expected: see`},
	}
	own := map[string][]row{
		"catalog":    nil,
		"inventory":  {{"", []string{"--latency", "-2ms"}, "latency is -2ms: want 0s to 1m0s"}},
		"storefront": {{"", []string{"--catalog", "consul:///catalog?colour=red"}, `"colour"`}},
	}
	dir := build(t)
	for service, rows := range own {
		for _, row := range append(all[:len(all):len(all)], rows...) {
			command := exec.Command(filepath.Join(dir, service), row.args...)
			command.Env = append(os.Environ(), "PORT="+row.port)
			output, err := command.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("PORT=%s %s %v ends with %v, want exit status 1", row.port, service, row.args, err)
			}
			line, rest, _ := strings.Cut(string(output), "\n")
			if !strings.HasPrefix(line, service+": ") || !strings.Contains(line, row.says) || rest != "" {
				t.Errorf("PORT=%s %s %v says %q, want one line with %q", row.port, service, row.args, output, row.says)
			}
		}
	}
}
