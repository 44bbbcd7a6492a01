package deploytest

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// stage is a stage of the Dockerfile with what it takes over from those below it.
type stage struct {
	name     string
	commands []instructions.Command
}

// stages are those of the Dockerfile, in their order.
func stages(t *testing.T) []stage {
	t.Helper()
	parsed, err := parser.Parse(strings.NewReader(read(t, "deploy/Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	if len(parsed.Warnings) > 0 {
		t.Errorf("the Dockerfile: %v", parsed.Warnings)
	}
	raw, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []stage
	for _, r := range raw {
		s := stage{name: r.Name}
		for _, below := range all {
			if below.name == r.BaseName {
				s.commands = slices.Clone(below.commands)
			}
		}
		s.commands = append(s.commands, r.Commands...)
		all = append(all, s)
	}
	return all
}

// stageOf is the stage that a target names; without one it is the last.
func stageOf(t *testing.T, target string) stage {
	t.Helper()
	all := stages(t)
	if target == "" {
		return all[len(all)-1]
	}
	for _, s := range all {
		if s.name == target {
			return s
		}
	}
	t.Fatalf("the Dockerfile has no target %q", target)
	return stage{}
}

// commandsOf are the commands of one kind.
func commandsOf[T any](s stage) []T {
	var some []T
	for _, c := range s.commands {
		if one, ok := c.(T); ok {
			some = append(some, one)
		}
	}
	return some
}

// probed is what the health check asks.
func (s stage) probed(t *testing.T) string {
	t.Helper()
	checks := commandsOf[*instructions.HealthCheckCommand](s)
	if len(checks) != 1 {
		t.Fatalf("stage %s has %d health checks", s.name, len(checks))
	}
	test := checks[0].Health.Test
	if len(test) < 4 || test[0] != "CMD" || test[1] != "/meshlite" || test[2] != "probe" {
		t.Fatalf("the health check of %s is %q: there is no shell in the image", s.name, test)
	}
	checkProbe(t, "stage "+s.name, test[3:])
	return test[len(test)-1]
}

func TestImages(t *testing.T) {
	for _, name := range []string{"http", "grpc"} {
		s := stageOf(t, name)
		users := commandsOf[*instructions.UserCommand](s)
		if len(users) != 1 || users[0].User != "65532:65532" {
			t.Errorf("stage %s runs as %v", name, users)
		}
		entry := commandsOf[*instructions.EntrypointCommand](s)
		if len(entry) != 1 || entry[0].PrependShell || !slices.Equal(entry[0].CmdLine, []string{"/program"}) {
			t.Errorf("stage %s begins with %v, want /program, which gets signals itself", name, entry)
		}
		if run := commandsOf[*instructions.RunCommand](s); len(run) > 0 {
			t.Errorf("stage %s is from scratch and runs %v", name, run)
		}
		if !strings.Contains(s.probed(t), "127.0.0.1:8080") {
			t.Errorf("stage %s is probed at %s", name, s.probed(t))
		}
		if c := commandsOf[*instructions.HealthCheckCommand](s)[0].Health; c.Timeout <= 0 || c.Interval <= 0 || c.Retries <= 0 {
			t.Errorf("stage %s has no times for its health check", name)
		}
		copied := map[string]bool{}
		for _, c := range commandsOf[*instructions.CopyCommand](s) {
			if c.From != "build" {
				t.Errorf("stage %s copies from %q", name, c.From)
			}
			for _, path := range c.SourcePaths {
				copied[path] = true
			}
		}
		if !copied["/out/program"] || !copied["/out/meshlite"] || !copied["/etc/ssl/certs/ca-certificates.crt"] {
			t.Errorf("stage %s has %v", name, copied)
		}
	}
	if last := stageOf(t, ""); last.name != "grpc" {
		t.Errorf("without a target, %s is built", last.name)
	}
}

// The steps of the build, in an empty folder with what COPY brings, make static programs.
func TestBuildStepsOutsideDocker(t *testing.T) {
	programs, err := os.ReadDir(filepath.Join(root(t), "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	build := stageOf(t, "build")
	source, out := t.TempDir(), t.TempDir()
	env := append(os.Environ(), "GOFLAGS=")
	for _, command := range build.commands {
		if c, ok := command.(*instructions.EnvCommand); ok {
			for _, v := range c.Env {
				env = append(env, v.Key+"="+v.Value)
			}
		}
	}
	for n, program := range programs {
		name := program.Name()
		if testing.Short() && name != "catalog" {
			continue
		}
		for _, command := range build.commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				if n == 0 {
					copyFiles(t, c, source)
				}
			case *instructions.RunCommand:
				step := strings.ReplaceAll(strings.Join(c.CmdLine, " "), "/out/", out+"/")
				if n > 0 && !strings.Contains(step, "PROGRAM") {
					continue // one layer for all programs
				}
				cmd := exec.Command("sh", "-c", step)
				cmd.Dir, cmd.Env = source, append(slices.Clone(env), "PROGRAM="+name)
				outputOf(t, cmd)
			}
		}
		checkStatic(t, name, filepath.Join(out, "program"))
		if err := os.Remove(filepath.Join(out, "program")); err != nil {
			t.Fatal(err)
		}
	}
	checkStatic(t, "meshlite", filepath.Join(out, "meshlite"))
	if got := outputOf(t, exec.Command(filepath.Join(out, "meshlite"), "version")); !strings.HasPrefix(got, "meshlite ") {
		t.Errorf("the program says %q", got)
	}
	// Without PROGRAM it must not build something else.
	for _, run := range commandsOf[*instructions.RunCommand](build) {
		if step := strings.Join(run.CmdLine, " "); strings.Contains(step, "PROGRAM") {
			cmd := exec.Command("sh", "-c", strings.ReplaceAll(step, "/out/", out+"/"))
			cmd.Dir, cmd.Env = source, env
			if output, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(output), "--build-arg PROGRAM=") {
				t.Errorf("without PROGRAM the build says %s (%v)", output, err)
			}
		}
	}
}

// copyFiles does what COPY does, for the files that a clone of the repository has.
func copyFiles(t *testing.T, c *instructions.CopyCommand, to string) {
	t.Helper()
	list := exec.Command("git", append([]string{"ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, c.SourcePaths...)...)
	list.Dir = root(t)
	ignored := ignores(t)
	for _, name := range strings.Split(strings.TrimRight(outputOf(t, list), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root(t), name))
		if err != nil || !info.Mode().IsRegular() || ignored(name) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// ignores reports what Dockerfile.dockerignore keeps from the build. Of the patterns it reads
// those that the file has: a name at the top, or, after **/, anywhere.
func ignores(t *testing.T) func(path string) bool {
	t.Helper()
	top, anywhere := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(read(t, "deploy/Dockerfile.dockerignore")) {
		line = strings.TrimSpace(line)
		name, isAnywhere := strings.CutPrefix(line, "**/")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.ContainsAny(name, "/*?[!\\"):
			t.Fatalf("deploy/Dockerfile.dockerignore: this test does not read the pattern %q", line)
		case isAnywhere:
			anywhere[name] = true
		default:
			top[name] = true
		}
	}
	return func(path string) bool {
		parts := strings.Split(path, "/")
		return top[parts[0]] || slices.ContainsFunc(parts, func(part string) bool { return anywhere[part] })
	}
}

func checkStatic(t *testing.T, name, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has a segment %v", name, p.Type)
		}
	}
	if libraries, err := f.ImportedLibraries(); err == nil && len(libraries) > 0 {
		t.Errorf("%s needs %v", name, libraries)
	}
}
