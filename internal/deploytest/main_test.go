package deploytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the folder of the repository.
func root(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// needs is the path of a program of Debian's. Without it the test is skipped, but in CI.
func needs(t *testing.T, program string) string {
	t.Helper()
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		path := filepath.Join(folder, program)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", program)
	}
	t.Skipf("NOT TESTED: %s is not installed", program)
	return ""
}

// outputOf runs a program, which must end well.
func outputOf(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// binaries are the programs of cmd/, built once.
var binaries string

func TestMain(m *testing.M) {
	code := 1
	folder, err := os.MkdirTemp("", "meshlite-deploy-")
	if err == nil {
		binaries = folder
		// As the Dockerfile does, so that packages are compiled once for both.
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", folder+"/", "./cmd/...")
		build.Dir, build.Stderr, build.Env = "../..", os.Stderr, append(os.Environ(), "CGO_ENABLED=0")
		if err = build.Run(); err == nil {
			code = m.Run()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the programs are not built:", err)
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

var helpFlag = regexp.MustCompile(`(?m)^\s+(?:-\w, )?--?([a-z][a-z-]*)`)

// checkProgram fails unless cmd/ has the program, and it has all flags among args.
func checkProgram(t *testing.T, where, program string, args []string) {
	t.Helper()
	path := filepath.Join(binaries, program)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s: there is no program %q in cmd/", where, program)
		return
	}
	help, _ := exec.Command(path, "-h").CombinedOutput() // its exit code differs
	known := map[string]bool{}
	for _, match := range helpFlag.FindAllStringSubmatch(string(help), -1) {
		known[match[1]] = true
	}
	if len(known) == 0 {
		t.Fatalf("%s -h names no flag: %s", program, help)
	}
	flags := 0
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		if flags++; !known[name] {
			t.Errorf("%s: %s has no flag --%s", where, program, name)
		}
	}
	if flags == 0 && len(args) > 0 {
		t.Errorf("%s: %s gets %q, and no flag among them", where, program, args)
	}
}

var setting = regexp.MustCompile("`(MESHLITE_[A-Z_]+)`")

// checkSettings fails unless each of our variables is in docs/settings.md: a misspelt one would
// set nothing.
func checkSettings(t *testing.T, where string, env map[string]string) {
	t.Helper()
	known := map[string]bool{}
	for _, match := range setting.FindAllStringSubmatch(read(t, "docs/settings.md"), -1) {
		known[match[1]] = true
	}
	for name := range env {
		if strings.HasPrefix(name, "MESHLITE_") && !known[name] {
			t.Errorf("%s sets %s, which docs/settings.md does not have", where, name)
		}
	}
	if env["MESHLITE_LISTEN_ADDRESS"] == "" || env["MESHLITE_METRICS_ADDRESS"] == "" {
		t.Errorf("%s does not set where calls and metrics are served: %v", where, env)
	}
}

// checkProbe fails unless `meshlite probe` takes args, which end with what is asked.
func checkProbe(t *testing.T, where string, args []string) {
	t.Helper()
	// Nobody listens here, so a probe that is understood fails with 1, and a wrong one with 2.
	cmd := exec.Command(filepath.Join(binaries, "meshlite"), append([]string{"probe", "--timeout", "1s"}, args...)...)
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code > 1 {
		t.Errorf("%s: meshlite probe %q ends with %d: %s", where, args, code, out)
	}
}
