package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Packages of the same programs are the same bytes wherever and by whomever they are made, and
// have what a host needs in the places that its distribution looks at.
func TestPackagesHoldWhatAHostNeeds(t *testing.T) {
	bin, err := filepath.Abs("../../.bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "nfpm")); err != nil || runtime.GOOS != "linux" {
		t.Skip("SKIPPED, no package is made: it needs Linux and the tools of `make licences`")
	}
	first, second := packagesIn(t, bin, "022"), packagesIn(t, bin, "077")
	if len(first) != 4 || len(second) != 4 {
		t.Fatalf("%d and %d packages, want 4", len(first), len(second))
	}
	for name, content := range first {
		if !bytes.Equal(content, second[name]) {
			t.Errorf("%s differs by where or by whom it is made", name)
		}
		if !strings.Contains(name, "1.2.3") {
			t.Errorf("%s has another version than 1.2.3", name)
		}
		if strings.HasSuffix(name, ".deb") {
			checkDeb(t, name, content)
		} else {
			checkRPM(t, name, content)
		}
	}
}

// packagesIn makes the packages of small programs in a folder of their own, with a umask.
func packagesIn(t *testing.T, bin, umask string) map[string][]byte {
	t.Helper()
	out := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		for _, program := range []string{"meshlite", "gateway"} {
			path := filepath.Join(out, "linux_"+arch, program)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"$2\"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := exec.Command("sh", "-c", `umask "$0" && exec ../../deploy/release/packages "$1" "$2"`, umask, out, bin)
	cmd.Env = append(os.Environ(), "VERSION=v1.2.3", "SOURCE_DATE_EPOCH=1700000000")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	made := map[string][]byte{}
	for _, pattern := range []string{"*.deb", "*.rpm"} {
		paths, err := filepath.Glob(filepath.Join(out, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if made[filepath.Base(path)], err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	return made
}

func checkDeb(t *testing.T, name string, content []byte) {
	t.Helper()
	reader, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Logf("%s is not read: %v", name, err)
		return
	}
	cmd := exec.Command(reader, "-c", "/dev/stdin")
	cmd.Stdin = bytes.NewReader(content)
	listed, err := cmd.Output()
	if err != nil {
		t.Fatalf("dpkg-deb -c %s: %v", name, err)
	}
	modes := map[string]string{}
	for line := range strings.Lines(string(listed)) {
		if fields := strings.Fields(line); len(fields) >= 6 {
			modes[strings.TrimPrefix(fields[5], ".")] = fields[0] + " " + fields[1]
		}
	}
	for path, want := range map[string]string{
		"/usr/bin/meshlite": "-rwxr-xr-x root/root", "/usr/bin/gateway": "-rwxr-xr-x root/root",
		"/usr/lib/systemd/system/meshlite@.service":          "-rw-r--r-- root/root",
		"/usr/share/bash-completion/completions/meshlite":    "-rw-r--r-- root/root",
		"/usr/share/zsh/vendor-completions/_meshlite":        "-rw-r--r-- root/root",
		"/usr/share/fish/vendor_completions.d/meshlite.fish": "-rw-r--r-- root/root",
		"/usr/share/doc/meshlite/copyright":                  "-rw-r--r-- root/root",
		"/usr/share/doc/meshlite/gateway.env":                "-rw-r--r-- root/root",
	} {
		if modes[path] != want {
			t.Errorf("%s has %s as %q, want %q", name, path, modes[path], want)
		}
	}
}

// checkRPM looks for folders and names in the header, which has them as they are.
func checkRPM(t *testing.T, name string, content []byte) {
	t.Helper()
	for _, part := range []string{
		"/usr/bin/", "/usr/lib/systemd/system/", "/usr/share/bash-completion/completions/", "/usr/share/zsh/site-functions/",
		"/usr/share/fish/vendor_completions.d/", "meshlite@.service", "_meshlite", "gateway.env", "copyright",
	} {
		if !bytes.Contains(content, []byte("\x00"+part+"\x00")) {
			t.Errorf("%s has no %s", name, part)
		}
	}
}
