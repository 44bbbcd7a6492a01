// Package agenttest gives tests a real Consul. Where there is none they are skipped,
// loudly, and with CI set they fail.
package agenttest

import (
	"os"
	"testing"

	"github.com/meshlite-go/meshlite/internal/consulagent"
)

// Path is the program to run.
func Path(t testing.TB) string {
	t.Helper()
	path, err := consulagent.Find()
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("SKIPPED, not tested against a real Consul: %v", err)
	}
	return path
}

// Start runs an agent until the test ends.
func Start(t testing.TB) *consulagent.Agent {
	t.Helper()
	agent, err := consulagent.Start(t.Context(), Path(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Kill)
	return agent
}
