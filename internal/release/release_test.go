package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The same tree gives the same program in two folders, built one after the other.
func TestTheSameTreeBuildsTheSameBytes(t *testing.T) {
	racetest.Skip(t)
	if testing.Short() {
		t.Skip("builds everything without paths: a minute the first time")
	}
	origin, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var sums []string
	for n := range 2 {
		tree := filepath.Join(t.TempDir(), fmt.Sprint("tree-", n))
		copyTree(t, origin, tree)
		t.Chdir(tree)
		out := filepath.Join(t.TempDir(), "out")
		if err := compile(out, platform{runtime.GOOS, runtime.GOARCH}, []string{"catalog"}); err != nil {
			t.Fatal(err)
		}
		program, err := os.ReadFile(filepath.Join(out, "catalog"+suffix(platform{os: runtime.GOOS})))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(program, []byte(tree)) {
			t.Errorf("the program has the path of the tree in it")
		}
		sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(program)))
	}
	if sums[0] != sums[1] {
		t.Errorf("two builds of the same tree differ: %v", sums)
	}
}

// copyTree copies what git has, as it is in the folder.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z")
	list.Dir = from
	names, err := list.Output()
	if err != nil {
		t.Skipf("the tree is no git checkout: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if link, err := os.Readlink(filepath.Join(from, name)); err == nil {
			if err := os.Symlink(link, filepath.Join(to, name)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		content, err := os.ReadFile(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchivesDependOnTheirFilesAlone(t *testing.T) {
	at := time.Unix(1_700_000_000, 0).UTC()
	for name, pack := range map[string]func(io.Writer, []string, time.Time) error{"tar": packTar, "zip": packZip} {
		t.Run(name, func(t *testing.T) {
			var packed [2]bytes.Buffer
			for n := range packed {
				path := filepath.Join(t.TempDir(), "program")
				if err := os.WriteFile(path, []byte("the same"), os.FileMode(0o600+n)); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(path, time.Time{}, at.Add(time.Duration(n)*time.Hour)); err != nil {
					t.Fatal(err)
				}
				if err := pack(&packed[n], []string{path}, at); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) {
				t.Error("archives of the same file, of another time and mode, differ")
			}
		})
	}
}

func TestPlatformsAreChosenByName(t *testing.T) {
	if got, err := choose("linux/arm64,windows/amd64"); err != nil || fmt.Sprint(got) != "[linux/arm64 windows/amd64]" {
		t.Errorf("chosen are %v, %v", got, err)
	}
	if got, err := choose(""); err != nil || len(got) != 6 {
		t.Errorf("chosen are %v, %v, want all six", got, err)
	}
	if _, err := choose("plan9/amd64"); err == nil || !strings.Contains(err.Error(), "plan9/amd64") {
		t.Errorf("the error is %v, want one that names plan9/amd64", err)
	}
}

// What nfpm takes from the machine unless the configuration says otherwise.
func TestPackagesNameNeitherTheHostNorTheTimeOfTheirBuild(t *testing.T) {
	config, err := os.ReadFile("../../deploy/release/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"rpm: {buildhost: reproducible}", `mtime: "@TIME@"`} {
		if !strings.Contains("\n"+string(config), "\n"+line+"\n") {
			t.Errorf("nfpm.yaml has no line %s: packages depend on who builds them, and when", line)
		}
	}
}

func TestChecksumsAreOfEveryFile(t *testing.T) {
	out := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(out, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(out, "linux_amd64"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("a.tar.gz", "archive")
	write("b.deb", "package")
	write("checksums.txt", "of the build before")
	if err := (&release{out: out}).sums(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(out, "checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x  a.tar.gz\n%x  b.deb\n", sha256.Sum256([]byte("archive")), sha256.Sum256([]byte("package")))
	if string(got) != want {
		t.Errorf("checksums are\n%swant\n%s", got, want)
	}
}

// A release says which commit it is of: a program without its commit, or with changes beside it,
// is no part of one.
func TestProgramsCarryTheirCommit(t *testing.T) {
	tree := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	do := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", tree, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("git %v: %v\n%s", args, err, out)
		}
	}
	put("go.mod", "module example.com/one\n\ngo 1.26\n")
	put("cmd/one/main.go", "package main\n\nfunc main() {}\n")
	t.Chdir(tree)
	built := func() string {
		t.Helper()
		out := t.TempDir()
		if err := compile(out, platform{runtime.GOOS, runtime.GOARCH}, []string{"one"}); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(out, "one"+suffix(platform{os: runtime.GOOS}))
	}
	refused := func(path, commit, want string) {
		t.Helper()
		if err := checkStamp(path, commit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}

	without := built()
	do("init", "-q")
	do("add", ".")
	do("commit", "-q", "-m", "one")
	program := built()
	commit := git("rev-parse", "HEAD")
	if err := checkStamp(program, commit); err != nil || commit == "" {
		t.Errorf("a program of commit %q: %v", commit, err)
	}
	refused(program, strings.Repeat("0", 40), commit)
	refused(without, commit, `has the commit ""`)
	put("cmd/one/main.go", "package main\n\nfunc main() { println() }\n")
	refused(built(), commit, `modified "true"`)
}
