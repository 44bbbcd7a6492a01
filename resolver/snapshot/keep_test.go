package snapshot_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Writers of one folder, as independent processes are.
func TestConcurrentSavesLeaveOneWholeFile(t *testing.T) {
	dir := t.TempDir()
	save(t, open(t, dir), query(), answer(1))
	var group sync.WaitGroup
	for writer := range 4 {
		d := open(t, dir)
		group.Go(func() {
			for n := range 25 {
				if err := d.Save(agent, query(), answer(1+(writer*25+n)%50)); err != nil {
					t.Error(err)
				}
				loadsWhole(t, d.Load)
			}
		})
	}
	group.Wait()
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("got the files %q, want one", names)
	}
}

func loadsWhole(t *testing.T, load func(string, catalog.Query) (catalog.Snapshot, error)) {
	t.Helper()
	got, err := load(agent, query())
	if err != nil || got.Index == 0 || int(got.Index) != len(got.Instances) {
		t.Errorf("got %d instances of index %d, %v", len(got.Instances), got.Index, err)
	}
}

// However a writer ends, what is read is whole, and what it left goes in time.
//
// Case R19
func TestKilledWritersLeaveAWholeFile(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	for range 3 {
		first, second := startWriter(t, dir), startWriter(t, dir)
		for range 50 {
			loadsWhole(t, d.Load)
		}
		first()
		second()
		loadsWhole(t, d.Load)
	}
	for _, name := range files(t, dir) {
		age(t, filepath.Join(dir, name), 2*time.Hour)
	}
	loadsWhole(t, open(t, dir).Load)
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("got the files %q, want one", names)
	}
}

// startWriter gives what kills the writer, after it has saved once.
func startWriter(t *testing.T, dir string) (kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerFolder+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "saved\n" {
		t.Fatalf("the writer said %q, %v", line, err)
	}
	return kill
}

// A writer that is still at work must not lose its file to one that starts.
func TestLeftoversAreRemovedWhenTheyAreOld(t *testing.T) {
	dir := t.TempDir()
	for name, old := range map[string]time.Duration{
		".meshlite-snapshot-1.tmp": 2 * time.Hour,
		".meshlite-snapshot-2.tmp": time.Minute,
		"notes.tmp":                2 * time.Hour,
	} {
		put(t, filepath.Join(dir, name), []byte("half"))
		age(t, filepath.Join(dir, name), old)
	}
	open(t, dir)
	if got, want := strings.Join(files(t, dir), " "), ".meshlite-snapshot-2.tmp notes.tmp"; got != want {
		t.Errorf("got the files %q, want %q", got, want)
	}
}

// The number of files is bounded. What was used last stays, and so does what is
// no snapshot.
func TestSnapshotsUnusedForLongestGoFirst(t *testing.T) {
	const most = 1024
	d, used := saved(t, answer(1))
	dir := filepath.Dir(used)
	for n := range most + 5 { // with the one in use, 6 too many
		path := filepath.Join(dir, fmt.Sprintf("old-%032x.json", n))
		put(t, path, nil)
		age(t, path, time.Hour-time.Duration(n)*time.Second)
	}
	put(t, filepath.Join(dir, "notes.json"), nil)
	folder := fmt.Sprintf("folder-%032x.json", 0)
	if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
		t.Fatal(err)
	}
	save(t, d, query(), answer(1))
	wantFiles(t, dir, most+8) // replacing a file makes none more
	for _, name := range []string{"notes.json", folder, filepath.Base(used)} {
		age(t, filepath.Join(dir, name), 9*time.Hour)
	}
	loadsWhole(t, d.Load) // from now on it is the last used

	save(t, d, catalog.Query{Service: "new"}, answer(1))
	wantFiles(t, dir, most+2) // beside the notes and the folder
	for name, want := range map[string]bool{
		filepath.Base(used):              true,
		"notes.json":                     true,
		fmt.Sprintf("old-%032x.json", 6): false,
		fmt.Sprintf("old-%032x.json", 7): true,
	} {
		if got := slices.Contains(files(t, dir), name); got != want {
			t.Errorf("%s is there: %v, want %v", name, got, want)
		}
	}
	if got, err := d.Load(agent, catalog.Query{Service: "new"}); err != nil || got.Index != 1 {
		t.Errorf("got %+v, %v, want what was saved last", got, err)
	}
}

func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	if got := len(files(t, dir)); got != want {
		t.Errorf("got %d files, want %d", got, want)
	}
}
