// Command mutants measures what the tests notice. It draws places in product code with
// a seed, changes one of them at a time (a comparison, a condition, a statement, a
// number), runs the short tests of that package and prints the one that fails. A mutant
// that survives is a test that is missing, or a change without effect.
//
// The tree is never touched: go's -overlay shows the change to the compiler alone.
//
//	go run ./internal/mutants -seed 7 -n 50 ./balancer/... ./interceptors/retry
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	var d draws
	flag.Uint64Var(&d.seed, "seed", 1, "of the draw: the same seed and tree give the same mutants")
	flag.IntVar(&d.n, "n", 20, "mutants that compile")
	flag.IntVar(&d.only, "only", -1, "number of the one draw to test again")
	flag.DurationVar(&d.timeout, "timeout", 90*time.Second, "of the tests of one package; a mutant that hangs is killed")
	flag.StringVar(&d.also, "also", "", "folder of a package whose tests run when those of the mutant's own package pass")
	flag.Parse()
	if err := d.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// draws are the mutants of one run.
type draws struct {
	seed    uint64
	n, only int
	timeout time.Duration
	also    string
}

func (d draws) run(patterns []string) error {
	files, err := productFiles(patterns)
	if err != nil {
		return err
	}
	var lines [][]mutant
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		of, err := mutantsOf(name, source)
		if err != nil {
			return err
		}
		lines = append(lines, of...)
	}
	fmt.Printf("seed %d: %d lines of %d files can change\n", d.seed, len(lines), len(files))
	r, err := newRunner(d.timeout, d.also)
	if err != nil {
		return err
	}
	defer r.close()
	killed, compiled := 0, 0
	for i, m := range drawn(lines, d.seed) {
		if compiled == d.n {
			break
		}
		if d.only >= 0 && i != d.only {
			continue
		}
		began := time.Now()
		by, err := r.killer(m)
		if errors.Is(err, errNotCompiled) {
			continue
		}
		if err != nil {
			return err
		}
		if compiled++; by != "" {
			killed++
		} else {
			by = "SURVIVED"
		}
		fmt.Printf("%3d %s\n      %s (%v)\n", i, m, by, time.Since(began).Round(time.Second))
	}
	fmt.Printf("%d of %d killed\n", killed, compiled)
	return nil
}

// drawn is one mutant of each line in a random order: each line weighs the same, however
// many mutants it has.
func drawn(lines [][]mutant, seed uint64) []mutant {
	random := rand.New(rand.NewPCG(seed, 0))
	all := make([]mutant, 0, len(lines))
	for _, line := range random.Perm(len(lines)) {
		all = append(all, lines[line][random.IntN(len(lines[line]))])
	}
	return all
}

// productFiles returns the Go files of the packages, without tests and generated code.
func productFiles(patterns []string) ([]string, error) {
	args := append([]string{"list", "-f", "{{range .GoFiles}}{{$.Dir}}/{{.}}\n{{end}}"}, patterns...)
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(patterns, " "), err)
	}
	var files []string
	for name := range strings.Lines(string(out)) {
		if name = strings.TrimSpace(name); name != "" && !strings.HasSuffix(name, ".pb.go") {
			files = append(files, filepath.Clean(name))
		}
	}
	return files, nil
}
