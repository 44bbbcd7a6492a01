package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is the command itself in the processes that the tests start.
func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_COMMAND") != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		port string
		args []string
		code int
		says string
	}{
		"a port in words":  {"http", nil, 1, `catalog: meshlite: WithPort "http": write 0 to 65535`},
		"a port too large": {"65536", nil, 1, `catalog: meshlite: WithPort "65536"`},
		"metrics nowhere":  {"", []string{"--metrics-address", "here"}, 1, `catalog: meshlite: WithMetricsAddress "here"`},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command(os.Args[0], test.args...)
			command.Env = append(os.Environ(), "BE_THE_COMMAND=1", "PORT="+test.port)
			output, err := command.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != test.code {
				t.Errorf("got %v, want exit status %d", err, test.code)
			}
			line, rest, _ := strings.Cut(string(output), "\n")
			if !strings.Contains(line, test.says) || rest != "" {
				t.Errorf("got %q, want one line with %q", output, test.says)
			}
		})
	}
}
