package mixedtest

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// pinned stands for the previous release until there is a tag: the tree of the commit "Merge
// the gateway command and proxies in front" of 2026-11-28, the first that has all programs. A
// tree's name does not change when a message of its history is put right.
const pinned = "6b78a0e2116b5e0c762ae168a0ba7b56d2b1e23e"

// wanted is a flag, since the build of two trees takes minutes where nothing of them is compiled.
var wanted = flag.Bool("releases", false, "build the previous release and this tree, and run them side by side")

// variable names another ref to run beside this tree: MESHLITE_PREVIOUS=v0.3.0.
const variable = "MESHLITE_PREVIOUS"

// buildTime bounds the build of one tree. With the module cache filled and nothing of ours
// compiled it takes two minutes on two cores that have nothing else to do.
const buildTime = 15 * time.Minute

// names are the programs that are built of each tree.
var names = []string{"cmd/catalog", "cmd/inventory", "cmd/storefront", "cmd/gateway", "cmd/meshlite", peer}

// peer is built of both trees, by the source of this one: see its comment.
const peer = "internal/mixedtest/peer"

// release is a tree whose programs were built.
type release struct {
	name string // "v0.3.0", "this tree"
	dir  string // has the programs
}

func (r release) program(name string) string { return filepath.Join(r.dir, filepath.Base(name)) }

// built are the releases of all tests.
var built struct {
	once              sync.Once
	dir               string
	previous, current release
	missing           string // why there is no history
	err               error
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(built.dir)
		os.Exit(code)
	}))
}

// releases builds both trees once.
func releases(t *testing.T) (previous, current release) {
	t.Helper()
	if !*wanted {
		t.Skip("SKIPPED, NOT TESTED: the previous release is not run beside this tree: run `make mixed`")
	}
	built.once.Do(func() { built.missing, built.err = build() })
	switch {
	case built.missing != "":
		t.Skip("SKIPPED, NOT TESTED: the previous release is not run beside this tree: " + built.missing)
	case built.err != nil:
		t.Fatal(built.err)
	}
	return built.previous, built.current
}

func build() (missing string, err error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	ref, missing, err := previousRef(root)
	if missing != "" || err != nil {
		return missing, err
	}
	if built.dir, err = os.MkdirTemp("", "meshlite-mixed-"); err != nil {
		return "", err
	}
	tree := filepath.Join(built.dir, "tree")
	if err := export(root, ref, tree); err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(tree, peer), os.DirFS(filepath.Join(root, peer))); err != nil {
		return "", err
	}
	built.previous = release{ref, filepath.Join(built.dir, "previous")}
	built.current = release{"this tree", filepath.Join(built.dir, "current")}
	if err := compile(tree, built.previous.dir); err != nil {
		return "", err
	}
	return "", compile(root, built.current.dir)
}

// previousRef is the newest tag before HEAD, and else what is pinned. Only a checkout without
// its history has none: anything else that is missing is an error.
func previousRef(root string) (ref, missing string, err error) {
	shallow, err := git(root, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return "", "this is no checkout of git: " + err.Error(), nil
	}
	ref = os.Getenv(variable)
	if ref == "" {
		// No tag is an error of git, too: then the pinned one is asked for below.
		ref, _ = git(root, "describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD~1")
	}
	if ref == "" {
		ref = pinned
	}
	if _, err = git(root, "rev-parse", "--verify", "--quiet", ref+"^{tree}"); err != nil && shallow == "true" {
		return "", "the clone is shallow and has no " + ref + ": run `git fetch --unshallow --tags`", nil
	}
	if err != nil {
		err = &refError{ref, err}
	}
	return ref, "", err
}

type refError struct {
	ref string
	err error
}

func (e *refError) Error() string {
	return "the previous release " + e.ref + " is not in this repository: set " + variable + " to a tag or commit that is, or pin another in releases_test.go: " + e.err.Error()
}

func git(dir string, args ...string) (string, error) {
	output, err := command(context.Background(), dir, "git", args...)
	return strings.TrimSpace(string(output)), err
}

// export writes the files of ref into a new folder.
func export(root, ref, folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	archive := folder + ".tar"
	if _, err := git(root, "archive", "--format=tar", "-o", archive, ref); err != nil {
		return err
	}
	defer os.Remove(archive)
	_, err := command(context.Background(), folder, "tar", "-xf", archive)
	return err
}

func compile(tree, to string) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	// Without paths in them, packages of the same tree are compiled once, wherever it lies.
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", to + string(filepath.Separator)}
	for _, name := range names {
		args = append(args, "./"+name)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	_, err := command(ctx, tree, "go", args...)
	return err
}

// command returns what a program prints, or an error with what it says.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stderr = dir, &said
	output, err := cmd.Output()
	if err != nil {
		err = &commandError{cmd.String(), err, strings.TrimSpace(said.String())}
	}
	return output, err
}

type commandError struct {
	command string
	err     error
	said    string
}

func (e *commandError) Error() string { return e.command + ": " + e.err.Error() + ": " + e.said }
func (e *commandError) Unwrap() error { return e.err }
