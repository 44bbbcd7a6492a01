package shop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// services are the programs of the shop, in the order in which they start.
var services = []string{"catalog", "inventory", "storefront", Gateway}

// Gateway is the service that is the HTTP door of the shop. It registers in the registry, too.
const Gateway = "gateway"

// programs are the paths of the services by name.
type programs map[string]string

// Installed returns an error that names the programs of the services that are missing:
// in dir if it is given, else where Open looks for them.
func Installed(dir string) error {
	_, err := findPrograms(dir)
	return err
}

// findPrograms looks in dir if it is given, else beside the running program, in
// .bin of this folder or of one above, and on PATH.
func findPrograms(dir string) (programs, error) {
	dirs, onPath := []string{dir}, dir == ""
	if onPath {
		dirs = programDirs()
	}
	found := programs{}
	var missing []string
	for _, name := range services {
		if path := findProgram(name, dirs, onPath); path != "" {
			found[name] = path
		} else {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	if onPath {
		dirs = append(dirs, "PATH")
	}
	return nil, fmt.Errorf("the programs %s of the sweet shop are not in %s: build them with `make build` or `go install github.com/meshlite-go/meshlite/cmd/...@latest`",
		strings.Join(missing, ", "), strings.Join(dirs, ", "))
}

// Program returns the path of a program that is installed beside those of the services: in dir
// if it is given, else where Open looks for them.
func Program(dir, name string) (string, error) {
	dirs, onPath := []string{dir}, dir == ""
	if onPath {
		dirs = programDirs()
	}
	if path := findProgram(name, dirs, onPath); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("the program %s is not in %s: build it with `make build`", name, strings.Join(dirs, ", "))
}

// programDirs are where a built tree or an installation has its programs.
func programDirs() []string {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	dir, err := os.Getwd()
	for err == nil {
		if info, err := os.Stat(filepath.Join(dir, ".bin")); err == nil && info.IsDir() {
			dirs = append(dirs, filepath.Join(dir, ".bin"))
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dirs
}

func findProgram(name string, dirs []string, onPath bool) string {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	if onPath {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}
