// Package programstest has the programs of cmd for tests that run them, built as users build
// them, which is without the race detector. `make test` builds them once for all packages.
//
//	dir, err := programstest.Dir(t.TempDir())
package programstest

import (
	"fmt"
	"os"
	"os/exec"
)

// Dir returns the folder that MESHLITE_TEST_PROGRAMS names, which has all programs, or else
// builds them into dir and returns that.
func Dir(dir string) (string, error) {
	if built := os.Getenv("MESHLITE_TEST_PROGRAMS"); built != "" {
		return built, nil
	}
	output, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir+string(os.PathSeparator), "github.com/meshlite-go/meshlite/cmd/...").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return dir, nil
}
