// Package observe tests what deploy has for Prometheus and Grafana: the rules by promtool,
// and all of it by a real Prometheus that finds the real sweet shop through a real Consul.
//
// Prometheus and promtool are those on PATH (apt-get install prometheus). Where they are
// missing, their tests are skipped, loudly; with CI set that is an error.
package observe

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	top       = filepath.Join("..", "..")
	committed = filepath.Join(top, "deploy", "prometheus")
)

// program is the path of a program of Debian's package.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("no %s on PATH: install prometheus", name)
	}
	if err != nil {
		t.Skipf("SKIPPED, the rules are not tried: no %s on PATH: apt-get install prometheus", name)
	}
	return path
}

// files reads those that match, by name. There must be some.
func files(t *testing.T, pattern string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s matches nothing: %v", pattern, err)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(path)] = string(bytes.TrimSpace(text))
	}
	return texts
}

// all is every first group of pattern in texts.
func all(texts map[string]string, pattern string) map[string]bool {
	found := map[string]bool{}
	for _, text := range texts {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found[match[1]] = true
		}
	}
	return found
}
