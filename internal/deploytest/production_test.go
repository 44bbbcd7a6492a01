package deploytest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// The commands of docs/production.md and of the READMEs are of programs and flags that there are.
func TestCommandsOfTheDocumentation(t *testing.T) {
	programs, err := os.ReadDir(filepath.Join(root(t), "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range programs {
		names = append(names, p.Name())
	}
	seen := map[string]int{}
	for _, block := range shellBlock.FindAllStringSubmatch(read(t, "docs/production.md"), -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(line, " #")
			words := strings.Fields(line)
			at := slices.IndexFunc(words, func(word string) bool { return slices.Contains(names, word) })
			if at < 0 {
				continue
			}
			program, args := words[at], words[at+1:]
			seen[program]++
			switch {
			case program == "meshlite" && args[0] == "probe":
				// An address of documentation does not answer in time, which is 1, too.
				checkProbe(t, line, slices.DeleteFunc(slices.Clone(args[1:]), func(arg string) bool { return arg == "--wait" || arg == "30s" }))
			case len(args) > 0:
				checkProgram(t, line, program, args)
			}
		}
	}
	if seen["catalog"] < 8 || seen["gateway"] < 1 || seen["meshlite"] < 4 {
		t.Errorf("only these commands were found: %v", seen)
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)

// Links of the pages about deployment lead to files that there are.
func TestLinksOfTheDocumentation(t *testing.T) {
	for _, page := range []string{"docs/production.md", "deploy/compose/README.md", "deploy/kubernetes/README.md", "deploy/nomad/README.md", "deploy/systemd/README.md"} {
		links := link.FindAllStringSubmatch(read(t, page), -1)
		if len(links) == 0 {
			t.Errorf("%s has no links", page)
		}
		for _, match := range links {
			if _, err := os.Stat(filepath.Join(root(t), filepath.Dir(page), match[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
