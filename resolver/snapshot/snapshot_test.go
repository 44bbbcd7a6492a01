package snapshot_test

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// R19: With a snapshot on disk a client starts while Consul is down: 0 failed calls; a damaged or foreign snapshot is ignored with a warning.
// Here: another process finds what was saved.
func TestWhatWasSavedIsLoadedByAnotherProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	save(t, open(t, dir), query(), answer(3))
	same := query()
	same.Tags = []string{"v2", "v2"} // the same question
	got, err := open(t, dir).Load(agent, same)
	if err != nil || !reflect.DeepEqual(got, answer(3)) {
		t.Errorf("got %+v, %v, want %+v", got, err, answer(3))
	}
}

func TestEveryFieldSurvives(t *testing.T) {
	dir := open(t, t.TempDir())
	rapid.Check(t, func(t *rapid.T) {
		want := snapshots().Draw(t, "snapshot")
		directory, q := rapid.String().Draw(t, "directory"), queries().Draw(t, "query")
		if err := dir.Save(directory, q, want); err != nil {
			t.Fatal(err)
		}
		got, err := dir.Load(directory, q)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Time.Equal(want.Time) {
			t.Errorf("time is %v, want %v", got.Time, want.Time)
		}
		got.Time, want.Time, want.Hint = time.Time{}, time.Time{}, ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func snapshots() *rapid.Generator[catalog.Snapshot] {
	return rapid.Custom(func(t *rapid.T) catalog.Snapshot {
		seconds := rapid.Int64Range(0, math.MaxUint32*2).Draw(t, "seconds")
		zone := time.FixedZone("", rapid.IntRange(-12*3600, 12*3600).Draw(t, "zone"))
		return catalog.Snapshot{
			Instances: rapid.SliceOfNDistinct(instances(), 1, 5, func(i catalog.Instance) string { return i.Address }).Draw(t, "instances"),
			Index:     rapid.Uint64().Draw(t, "index"),
			Time:      time.Unix(seconds, rapid.Int64Range(0, 1e9-1).Draw(t, "ns")).In(zone),
			Hint:      rapid.String().Draw(t, "hint"),
		}
	})
}

// instances distinguishes nil from empty, as the directory's own answers do.
func instances() *rapid.Generator[catalog.Instance] {
	tags := rapid.OneOf(rapid.Just[[]string](nil), rapid.SliceOf(rapid.String()))
	metadata := rapid.OneOf(rapid.Just[map[string]string](nil), rapid.MapOf(rapid.String(), rapid.String()))
	return rapid.Custom(func(t *rapid.T) catalog.Instance {
		return catalog.Instance{
			ID:         rapid.String().Draw(t, "id"),
			Service:    rapid.String().Draw(t, "service"),
			Node:       rapid.String().Draw(t, "node"),
			Datacenter: rapid.String().Draw(t, "datacenter"),
			Address:    rapid.StringMatching(`([a-z0-9.-]+|\[[0-9a-f:]+(%eth0)?\]):[1-9][0-9]{0,3}`).Draw(t, "address"),
			Tags:       tags.Draw(t, "tags"),
			Metadata:   metadata.Draw(t, "metadata"),
			Weight:     rapid.Uint32Min(1).Draw(t, "weight"),
			Status:     rapid.SampledFrom([]catalog.Status{catalog.Passing, catalog.Warning, catalog.Critical}).Draw(t, "status"),
			Region:     rapid.String().Draw(t, "region"),
			Zone:       rapid.String().Draw(t, "zone"),
		}
	})
}

func queries() *rapid.Generator[catalog.Query] {
	return rapid.Custom(func(t *rapid.T) catalog.Query {
		return catalog.Query{
			Service: rapid.String().Draw(t, "service"),
			Tags:    rapid.SliceOf(rapid.String()).Draw(t, "tags"),
			Filter:  rapid.String().Draw(t, "filter"),
			Warning: rapid.Bool().Draw(t, "warning"),
		}
	})
}

func TestNothingSavedIsNothingAndNoError(t *testing.T) {
	d, _ := saved(t, answer(1))
	other := query()
	other.Datacenter = "dc2"
	for _, ask := range []struct {
		directory string
		q         catalog.Query
	}{{agent, other}, {"consul at 127.0.0.1:8501", query()}} {
		if got, err := d.Load(ask.directory, ask.q); err != nil || !reflect.DeepEqual(got, catalog.Snapshot{}) {
			t.Errorf("%q, %+v: got %+v, %v, want nothing", ask.directory, ask.q, got, err)
		}
	}
}

func TestEmptyAnswerLeavesTheLastGoodOne(t *testing.T) {
	d, _ := saved(t, answer(2))
	save(t, d, query(), catalog.Snapshot{Index: 99, Hint: "there is no service of that name"})
	if got, err := d.Load(agent, query()); err != nil || got.Index != 2 {
		t.Errorf("got %+v, %v, want the answer with index 2", got, err)
	}
}

// What could not be loaded again must not replace what can.
func TestAnswerThatCouldNotBeLoadedIsNotSaved(t *testing.T) {
	d, _ := saved(t, answer(2))
	for says, spoil := range map[string]func(*catalog.Snapshot){
		`instances[1].address is "10.0.0.1", want host:port`:                  func(s *catalog.Snapshot) { s.Instances[1].Address = "10.0.0.1" },
		`instances[1].weight is 0, want at least 1`:                           func(s *catalog.Snapshot) { s.Instances[1].Weight = 0 },
		`instances[1].address is "10.0.0.0:8080", as is that of instances[0]`: func(s *catalog.Snapshot) { s.Instances[1].Address = s.Instances[0].Address },
		`year outside of range [0,9999]`:                                      func(s *catalog.Snapshot) { s.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		s := answer(2)
		s.Index = 99
		spoil(&s)
		if err := d.Save(agent, query(), s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	if got, err := d.Load(agent, query()); err != nil || got.Index != 2 {
		t.Errorf("got %+v, %v, want the answer with index 2", got, err)
	}
}

func TestAnswerThatIsTooLargeToLoadIsNotSaved(t *testing.T) {
	racetest.Skip(t)
	if testing.Short() {
		t.Skip("SKIPPED, the bound of what is saved is not tested: it takes seconds")
	}
	d, _ := saved(t, answer(2))
	s := answer(3)
	s.Instances[1].ID = strings.Repeat("x", 64<<20)
	if err := d.Save(agent, query(), s); err == nil || !strings.Contains(err.Error(), "bytes, want at most 67108864") {
		t.Errorf("got %v, want an error with the limit", err)
	}
	if got, err := d.Load(agent, query()); err != nil || got.Index != 2 {
		t.Errorf("got %+v, %v, want the answer with index 2", got, err)
	}
}

// A name is readable, of bounded length, and stays in its folder.
func TestFilesHaveReadableNames(t *testing.T) {
	for service, want := range map[string]string{
		"catalog":                  "catalog-",
		"Catalog_v2.eu":            "Catalog_v2-eu-",
		"../../etc/passwd":         "etc-passwd-",
		"-rf":                      "rf-",
		"":                         "service-",
		"\x00\xff é":               "service-",
		strings.Repeat("long", 99): strings.Repeat("long", 16) + "-",
	} {
		dir := t.TempDir()
		save(t, open(t, dir), catalog.Query{Service: service}, answer(1))
		names := files(t, dir)
		if len(names) != 1 || !strings.HasPrefix(names[0], want) || len(names[0]) != len(want)+len(".json")+32 {
			t.Errorf("%q is in the files %q, want one that begins with %q", service, names, want)
		}
	}
}

func TestFilesAndFoldersAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snapshots")
	save(t, open(t, dir), query(), answer(1))
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, files(t, dir)[0]): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has the mode %v, want %v", path, info.Mode(), want)
		}
	}
}

func TestFolderThatCannotBeUsedIsRefusedWhenOpened(t *testing.T) {
	_, file := saved(t, answer(1))
	for dir, says := range map[string]string{
		"":                           `the folder for snapshots is ""`,
		file:                         file + " cannot be used: give one that this process may write to: ",
		filepath.Join(file, "below"): "not a directory",
	} {
		if _, err := snapshot.Open(dir); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want %q", dir, err, says)
		}
	}
}

func TestFolderThatCannotBeWrittenIsRefusedWhenOpened(t *testing.T) {
	skipAsRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(dir); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want permission denied", err)
	}
}

func skipAsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("SKIPPED, file permissions are not tested: root may read and write everything")
	}
}

// A process may change its folder after it has opened one by a relative path.
func TestRelativeFolderStaysWhereItWas(t *testing.T) {
	t.Chdir(t.TempDir())
	d := open(t, "snapshots")
	save(t, d, query(), answer(1))
	t.Chdir(t.TempDir())
	if got, err := d.Load(agent, query()); err != nil || got.Index != 1 {
		t.Errorf("got %+v, %v, want what was saved", got, err)
	}
}

// Each change of a fleet of 10,000 is written whole.
func BenchmarkSave(b *testing.B) {
	d, s := open(b, b.TempDir()), answer(10_000)
	b.ReportAllocs()
	for b.Loop() {
		save(b, d, query(), s)
	}
}

func BenchmarkLoad(b *testing.B) {
	d, _ := saved(b, answer(10_000))
	b.ReportAllocs()
	for b.Loop() {
		if got, err := d.Load(agent, query()); err != nil || len(got.Instances) != 10_000 {
			b.Fatal(len(got.Instances), err)
		}
	}
}
