package deploytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// settings are the lines KEY=VALUE of a file.
func settings(t *testing.T, path string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(read(t, path)) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), "="); found && !strings.HasPrefix(key, "#") {
			all[key] = value
		}
	}
	return all
}

// machine is a folder with the units, their settings and the programs, for systemd-analyze.
func machine(t *testing.T, programs ...string) string {
	t.Helper()
	folder := t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range append(programs, "meshlite") {
		write("usr/bin/"+program, "", 0o755)
	}
	for _, program := range programs {
		write("etc/meshlite/"+program+".env", read(t, "deploy/systemd/"+program+".env"), 0o600)
	}
	write("etc/systemd/system/meshlite@.service", read(t, "deploy/systemd/meshlite@.service"), 0o644)
	return folder
}

func TestUnits(t *testing.T) {
	analyze := needs(t, "systemd-analyze")
	for _, program := range []string{"catalog", "gateway"} {
		folder := machine(t, program)
		unit := "meshlite@" + program + ".service"
		if out := outputOf(t, exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", "--root="+folder, unit)); strings.TrimSpace(out) != "" {
			t.Errorf("%s: %s", unit, out)
		}
		// The number is ten times the exposure.
		outputOf(t, exec.Command(analyze, "security", "--no-pager", "--offline=true", "--threshold=19", "--root="+folder, unit))
	}
}

// What systemd-analyze finds in a unit that is wrong: it can fail.
func TestUnitsAreReallyChecked(t *testing.T) {
	analyze := needs(t, "systemd-analyze")
	folder := machine(t, "catalog")
	path := filepath.Join(folder, "etc/systemd/system/meshlite@.service")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "TimeoutStopSec=", "TimeoutStopsSec=", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", "--root="+folder, "meshlite@catalog.service").CombinedOutput()
	if !strings.Contains(string(out), "TimeoutStopsSec") {
		t.Errorf("a wrong key is not noticed: %s", out)
	}
}

func TestUnitsMatchThePrograms(t *testing.T) {
	unit := settings(t, "deploy/systemd/meshlite@.service")
	seconds, err := time.ParseDuration(unit["TimeoutStopSec"] + "s")
	if err != nil {
		t.Fatal(err)
	}
	checkGrace(t, "meshlite@.service", 0, seconds)
	if unit["KillSignal"] != "SIGTERM" || unit["ExecStart"] != "/usr/bin/%i $ARGS" {
		t.Errorf("it runs %q, and stops it by %q", unit["ExecStart"], unit["KillSignal"])
	}
	probe := strings.Fields(strings.TrimPrefix(unit["ExecStartPost"], "/usr/bin/meshlite probe "))
	for _, program := range []string{"catalog", "gateway"} {
		env := settings(t, "deploy/systemd/"+program+".env")
		args := strings.Fields(env["ARGS"])
		checkProgram(t, program+".env", program, args)
		checkSettings(t, program+".env", env)
		calls, metrics := servedBy(env)
		port := metrics
		if isHTTP(program) {
			port = calls
		}
		if !strings.HasSuffix(env["READY"], ":"+port+"/readyz") {
			t.Errorf("%s is ready by %s: its /readyz is at port %s", program, env["READY"], port)
		}
		var asked []string
		for _, arg := range probe {
			asked = append(asked, strings.ReplaceAll(strings.ReplaceAll(arg, "${READY}", env["READY"]), "30s", "0s"))
		}
		checkProbe(t, "ExecStartPost of "+program, asked)
	}
}
