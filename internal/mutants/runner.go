package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var (
	errNotCompiled = errors.New("the mutant does not compile")
	failure        = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)|^fatal error: (.*)`)
)

// runner runs the tests of packages over mutants.
type runner struct {
	dir     string // for what is built
	timeout time.Duration
	also    string          // folder of another package, "" is none
	sound   map[string]bool // packages whose tests pass without a mutant
}

func newRunner(timeout time.Duration, also string) (*runner, error) {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	if also != "" {
		if also, err = filepath.Abs(also); err != nil {
			return nil, err
		}
	}
	return &runner{dir, timeout, also, map[string]bool{}}, nil
}

func (r *runner) close() { _ = os.RemoveAll(r.dir) }

// killer returns which test notices m, "" if none does.
func (r *runner) killer(m mutant) (string, error) {
	own := filepath.Dir(m.file)
	by, err := r.test(own, &m)
	if err != nil || by != "" || r.also == "" || r.also == own {
		return by, err
	}
	return r.test(r.also, &m)
}

// test runs the tests of a package, which must pass without the mutant.
func (r *runner) test(pkg string, m *mutant) (string, error) {
	program, err := r.build(pkg, m)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(filepath.Dir(program))
	by := r.run(pkg, program)
	if by == "" || r.sound[pkg] {
		return by, nil
	}
	unchanged, err := r.build(pkg, nil)
	if err != nil {
		return "", fmt.Errorf("%s: the tests do not compile without a mutant", pkg)
	}
	defer os.RemoveAll(filepath.Dir(unchanged))
	if fails := r.run(pkg, unchanged); fails != "" {
		return "", fmt.Errorf("%s: %s fails without a mutant, too", pkg, fails)
	}
	r.sound[pkg] = true
	return by, nil
}

// build returns the test binary of a package in which m, if any, replaces its file.
func (r *runner) build(pkg string, m *mutant) (string, error) {
	// In a folder of its own it gets the name that go test gives it, which tests may read.
	folder, err := os.MkdirTemp(r.dir, "tests")
	if err != nil {
		return "", err
	}
	args := []string{"test", "-c", "-vet=off", "-o", folder + string(filepath.Separator)}
	if m != nil {
		changed, overlay := filepath.Join(r.dir, "mutant.go"), filepath.Join(r.dir, "overlay.json")
		text, err := json.Marshal(map[string]map[string]string{"Replace": {m.file: changed}})
		if err := errors.Join(err, os.WriteFile(changed, m.text(), 0o600), os.WriteFile(overlay, text, 0o600)); err != nil {
			return "", err
		}
		args = append(args, "-overlay", overlay)
	}
	build := exec.Command("go", append(args, ".")...)
	build.Dir = pkg
	if err := build.Run(); err != nil {
		return "", errNotCompiled
	}
	built, err := filepath.Glob(filepath.Join(folder, "*.test"))
	if err != nil || len(built) != 1 {
		return "", fmt.Errorf("%s has no tests: leave it out", pkg)
	}
	return built[0], nil
}

// run returns what fails first, "" if nothing does.
func (r *runner) run(pkg, program string) string {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout+10*time.Second)
	defer cancel()
	tests := exec.CommandContext(ctx, program, "-test.short", "-test.failfast", "-test.timeout", r.timeout.String())
	tests.Dir, tests.WaitDelay = pkg, time.Second
	out, err := tests.CombinedOutput()
	if err == nil {
		return ""
	}
	if found := failure.FindSubmatch(out); found != nil {
		return string(found[1]) + string(found[2]) + string(found[3])
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1] + " (" + err.Error() + ")"
}
