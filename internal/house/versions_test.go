package house

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/versions.md and the README name the versions that the module requires and that its tests
// run with.
func TestVersionsAreThoseOfTheModules(t *testing.T) {
	read := func(path ...string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	version := func(file, pattern string) string {
		t.Helper()
		match := regexp.MustCompile(`(?m)^\s*` + pattern + `v?(\d+\.\d+\.\d+)`).FindStringSubmatch(file)
		if match == nil {
			t.Fatalf("a go.mod has no %s", pattern)
		}
		return match[1]
	}
	root, consul := read("go.mod"), read("deploy", "consul", "go.mod")
	language, grpc := version(root, "go "), version(root, `google\.golang\.org/grpc `)
	tested, older := version(consul, `github\.com/hashicorp/consul `), version(read("deploy", "consul", "oldest", "go.mod"), `github\.com/hashicorp/consul `)
	minor := func(version string) string { return version[:strings.LastIndex(version, ".")] }

	for page, sentences := range map[string][]string{
		read("docs", "versions.md"): {
			fmt.Sprintf("| Go | %s and newer", language), fmt.Sprintf("| v%s |", grpc),
			fmt.Sprintf("| Consul | %s,", minor(tested)), fmt.Sprintf("| %s, in every run of the tests", tested), fmt.Sprintf("`make matrix` tries %s", older),
		},
		read("README.md"): {fmt.Sprintf("needs Go %s and grpc-go %s, and is tested with Consul %s", language, minor(grpc), tested)},
	} {
		for _, sentence := range sentences {
			if !strings.Contains(page, sentence) {
				t.Errorf("this page does not say %q, which go.mod does:\n%s", sentence, page)
			}
		}
	}
}
