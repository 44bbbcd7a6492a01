package nginx

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/child"
)

// want checks what Apply returns, what stands in the file and how often NGINX was reloaded.
func want(t *testing.T, f *File, text string, changed bool, failure, stands string, reloads int) {
	t.Helper()
	got, err := f.Apply(t.Context(), text)
	if got != changed || (err == nil) != (failure == "") || err != nil && !strings.Contains(err.Error(), failure) {
		t.Errorf("Apply(%q) = %t, %v, want %t, %q", text, got, err, changed, failure)
	}
	content, _ := os.ReadFile(f.Path)
	if string(content) != stands {
		t.Errorf("after Apply(%q) the file has %q, want %q", text, content, stands)
	}
	count, _ := os.ReadFile(filepath.Join(filepath.Dir(f.Path), "reloads"))
	if n := strings.Count(string(count), "\n"); n != reloads {
		t.Errorf("after Apply(%q) there were %d reloads, want %d", text, n, reloads)
	}
	entries, _ := filepath.Glob(filepath.Join(filepath.Dir(f.Path), ".*"))
	if len(entries) > 0 {
		t.Errorf("after Apply(%q) temporary files are left: %v", text, entries)
	}
}

func newFile(t *testing.T) (*File, string) {
	dir := t.TempDir()
	return &File{
		Path: filepath.Join(dir, "catalog.conf"), Check: fmt.Sprintf("! grep bad %s/catalog.conf", dir),
		Reload: fmt.Sprintf("test ! -e %s/broken && echo >> %s/reloads", dir, dir),
	}, dir
}

func TestReloadsOnlyAfterAChange(t *testing.T) {
	f, _ := newFile(t)
	want(t, f, "one", true, "", "one", 1)
	want(t, f, "one", false, "", "one", 1)
	want(t, f, "two", true, "", "two", 2)
	info, err := os.Stat(f.Path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the file's mode is %v (%v), want that NGINX can read it", info.Mode(), err)
	}
	// Another process finds what this one has left.
	other := &File{Path: f.Path, Reload: f.Reload}
	want(t, other, "two", false, "", "two", 2)
}

func TestTheLastGoodFileStays(t *testing.T) {
	f, dir := newFile(t)
	want(t, f, "bad", false, "--check", "", 0)
	if f.Exists() {
		t.Error("a first file that fails the check is there")
	}
	want(t, f, "one", true, "", "one", 1)
	want(t, f, "bad", false, "bad", "one", 1)
	want(t, f, "one", false, "", "one", 1)
	f.Path = filepath.Join(dir, "none", "catalog.conf")
	if _, err := f.Apply(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "--out") {
		t.Errorf("a directory that is not there: %v", err)
	}
	f.Path = dir
	if _, err := f.Apply(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "--out") {
		t.Errorf("a directory: %v", err)
	}
}

func TestAFailedReloadIsTriedAgain(t *testing.T) {
	f, dir := newFile(t)
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, f, "one", true, "--reload", "one", 0)
	want(t, f, "one", false, "--reload", "one", 0)
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	want(t, f, "one", false, "", "one", 1)
	want(t, f, "one", false, "", "one", 1)
}

func TestAProcessIsSentSIGHUP(t *testing.T) {
	f, dir := newFile(t)
	f.Reload, f.PIDFile = "", filepath.Join(dir, "pid")
	want(t, f, "one", true, "is NGINX running?", "one", 0)
	for _, text := range []string{"x", "", "1", "-5", "0"} { // 1 and negative ones are others'
		if err := os.WriteFile(f.PIDFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want(t, f, "one", false, "pid directive", "one", 0)
	}
	cmd := exec.Command("/bin/sh", "-c", `trap 'exit 7' HUP; echo; while :; do sleep 0.05; done`)
	cmd.SysProcAttr = child.OwnGroup()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the trap is set
		t.Fatal(err)
	}
	if err := os.WriteFile(f.PIDFile, fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, f, "one", false, "", "one", 0)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("it ended with %d, want 7, by SIGHUP", code)
	}
	want(t, f, "two", true, "is NGINX running?", "two", 0)
}
