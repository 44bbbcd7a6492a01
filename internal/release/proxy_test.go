package main

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

// `go install` works for those who have the module from a proxy: nothing that a program needs
// is in another module, left out of the module's archive, or replaced in go.mod.
func TestGoInstallFromAProxy(t *testing.T) {
	racetest.Skip(t)
	if testing.Short() {
		t.Skip("compiles the module anew: a minute")
	}
	const module, version = "github.com/meshlite-go/meshlite", "v0.0.1-test"
	tree := filepath.Join(t.TempDir(), "tree")
	origin, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	copyTree(t, origin, tree)
	proxy := t.TempDir()
	at := filepath.Join(proxy, module, "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	requirements, err := os.ReadFile(filepath.Join(tree, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"list": version + "\n", version + ".info": fmt.Sprintf(`{"Version": %q, "Time": "2026-01-01T00:00:00Z"}`, version), version + ".mod": string(requirements),
	} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(filepath.Join(at, version+".zip"), func(w io.Writer) error { return packModule(w, tree, module+"@"+version+"/") }); err != nil {
		t.Fatal(err)
	}

	cached, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	// The module goes to a cache of its own, and what it needs comes from the real one.
	// Without paths, what was compiled for one such cache serves the next.
	downloads := filepath.Join(strings.TrimSpace(string(cached)), "cache", "download")
	bin, cache := t.TempDir(), t.TempDir()
	install := exec.Command("go", "install", "-modcacherw", "-trimpath", module+"/cmd/catalog@"+version)
	install.Dir = t.TempDir()
	install.Env = append(os.Environ(), "GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(downloads), "GOSUMDB=off", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local",
		"GOBIN="+bin, "GOMODCACHE="+cache)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install: %v\n%s", err, out)
	}
	built, err := exec.Command("go", "version", "-m", filepath.Join(bin, "catalog"+suffix(platform{os: runtime.GOOS}))).Output()
	if err != nil || !strings.Contains(string(built), module+"\t"+version) {
		t.Errorf("the program says of itself %s, %v, want %s", built, err, version)
	}
}

// packModule writes the archive of a module: all of its files but those of modules within.
func packModule(w io.Writer, tree, prefix string) error {
	archive := zip.NewWriter(w)
	err := filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Type()&os.ModeSymlink != 0:
			return nil // as the go command leaves them out
		case d.IsDir() && path != tree:
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := archive.CreateHeader(&zip.FileHeader{Name: prefix + filepath.ToSlash(name)}) // as it is: it is unpacked at once
		if err != nil {
			return err
		}
		_, err = file.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	return archive.Close()
}
