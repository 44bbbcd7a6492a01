package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

const agent = "consul at 127.0.0.1:8500"

// writerFolder makes this program a writer that saves there until it is killed.
const writerFolder = "SNAPSHOT_TEST_WRITER_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerFolder); dir != "" {
		write(dir)
	}
	goleak.VerifyTestMain(m)
}

func write(dir string) {
	d, err := snapshot.Open(dir)
	for n := 0; err == nil; n++ {
		err = d.Save(agent, query(), answer(1+n%300))
		if n == 0 {
			fmt.Println("saved")
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func query() catalog.Query { return catalog.Query{Service: "catalog", Tags: []string{"v2"}} }

// answer is a snapshot of n instances, whose index is n too.
func answer(n int) catalog.Snapshot {
	s := catalog.Snapshot{Index: uint64(n), Time: time.Date(2026, 5, 1, 12, 0, 0, 7, time.UTC)}
	for i := range n {
		s.Instances = append(s.Instances, catalog.Instance{
			ID:         fmt.Sprintf("catalog-%d", i),
			Service:    "catalog",
			Node:       "node-1",
			Datacenter: "dc1",
			Address:    fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256),
			Tags:       []string{"canary", "v2"},
			Metadata:   map[string]string{"version": "2", "zone": "a"},
			Weight:     uint32(1 + i%7),
			Status:     catalog.Status(i % 2),
			Region:     "eu",
			Zone:       "eu-a",
		})
	}
	return s
}

func open(t testing.TB, dir string) snapshot.Dir {
	t.Helper()
	d, err := snapshot.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func save(t testing.TB, d snapshot.Dir, q catalog.Query, s catalog.Snapshot) {
	t.Helper()
	if err := d.Save(agent, q, s); err != nil {
		t.Fatal(err)
	}
}

// saved gives a folder with one snapshot, and the path of its file.
func saved(t testing.TB, s catalog.Snapshot) (d snapshot.Dir, path string) {
	t.Helper()
	dir := t.TempDir()
	d = open(t, dir)
	save(t, d, query(), s)
	names := files(t, dir)
	if len(names) != 1 {
		t.Fatalf("got the files %q, want one", names)
	}
	return d, filepath.Join(dir, names[0])
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// age makes a file as old as that.
func age(t testing.TB, path string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}
