package snapshot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// R19: With a snapshot on disk a client starts while Consul is down: 0 failed calls; a damaged or foreign snapshot is ignored with a warning.
// Here: the error is what the warning says.
//
// Case R19
func TestDamagedAndForeignFilesAreRefused(t *testing.T) {
	_, other := saved(t, answer(2))
	foreignQuery := foreign(t, agent, catalog.Query{Service: "inventory"})
	foreignDirectory := foreign(t, "consul at 10.9.9.9:8500", query())
	for name, test := range map[string]struct {
		damage func(t *testing.T, path string)
		says   string
	}{
		"empty file":         {content(""), "it is empty"},
		"not JSON":           {content("catalog 10.0.0.1:80"), "it is damaged: invalid character 'c'"},
		"another JSON":       {content(`{"Node": "n"}`), "its format version is 0, want 1"},
		"truncated":          {edit(func(s string) string { return s[:len(s)/2] }), "it is damaged: unexpected end of JSON input"},
		"something appended": {edit(func(s string) string { return s + "}" }), "it is damaged: invalid character '}'"},
		"another address":    {replaced("10.0.0.1:", "10.0.0.9:"), "it is damaged: sha256 is "},
		"another index":      {replaced(`"index":2`, `"index":3`), "it is damaged: sha256 is "},
		"no checksum":        {replaced(`"sha256"`, `"sha1"`), `it is damaged: sha256 is ""`},
		"a newer format":     {replaced(`"version":1`, `"version":2`), "its format version is 2, want 1"},
		"an endless version": {replaced(`"version":1`, `"version":1`+strings.Repeat("0", 9999)), "it is damaged: json: cannot unmarshal number 1000"},
		"too large":          {func(t *testing.T, path string) { enlarge(t, path, 64<<20+1) }, "it has 67108865 bytes, want at most 67108864: remove it"},
		"another directory":  {content(string(foreignDirectory)), `it belongs to the directory "consul at 10.9.9.9:8500", want "consul at 127.0.0.1:8500"`},
		"another query":      {content(string(foreignQuery)), `it answers the query "service=inventory`},
		"a folder":           {folder, "it is a folder, want a regular file: remove it"},
		"a symbolic link":    {link(other), "it is a symbolic link, want a regular file: remove it"},
		"a dangling link":    {link("nowhere"), "it is a symbolic link, want a regular file: remove it"},
		"content of another": {sealed(`["a"]`), "its content is not a snapshot: json: cannot unmarshal array"},
		"no instances":       {sealedWith(``), "instances is empty, want at least one"},
		"no address":         {sealedWith(`{"weight":1,"status":"passing"}`), `instances[0].address is "", want host:port`},
		"no host":            {sealedWith(`{"address":":80","weight":1,"status":"passing"}`), `instances[0].address is ":80", want host:port`},
		"no port":            {sealedWith(`{"address":"a:","weight":1,"status":"passing"}`), `instances[0].address is "a:", want host:port`},
		"port 0":             {sealedWith(`{"address":"a:0","weight":1,"status":"passing"}`), `instances[0].address is "a:0", want host:port`},
		"a port too large":   {sealedWith(`{"address":"a:65536","weight":1,"status":"passing"}`), `instances[0].address is "a:65536", want host:port`},
		"a port by name":     {sealedWith(`{"address":"a:http","weight":1,"status":"passing"}`), `instances[0].address is "a:http", want host:port`},
		"a bare IPv6":        {sealedWith(`{"address":"::1","weight":1,"status":"passing"}`), `instances[0].address is "::1", want host:port`},
		"no weight":          {sealedWith(`{"address":"a:1","status":"passing"}`), "instances[0].weight is 0, want at least 1"},
		"a negative weight":  {sealedWith(`{"address":"a:1","weight":-1,"status":"passing"}`), "number -1 into Go struct field"},
		"no status":          {sealedWith(`{"address":"a:1","weight":1}`), `instances[0].status is "", want passing, warning, critical or maintenance`},
		"an unknown status":  {sealedWith(`{"address":"a:1","weight":1,"status":"Passing"}`), `instances[0].status is "Passing"`},
		"an address twice":   {sealedWith(`{"address":"a:1","weight":1,"status":"passing"},{"address":"a:1","weight":1,"status":"passing"}`), `instances[1].address is "a:1", as is that of instances[0]`},
	} {
		t.Run(name, func(t *testing.T) {
			d, path := saved(t, answer(2))
			test.damage(t, path)
			got, err := d.Load(agent, query())
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %q and the path %s", err, test.says, path)
			}
			if err != nil && len(err.Error()) > 1500 {
				t.Errorf("the error has %d bytes, want a line", len(err.Error()))
			}
			if !reflect.DeepEqual(got, catalog.Snapshot{}) {
				t.Errorf("got %+v beside an error", got)
			}
		})
	}
}

// The good answer replaces what was refused, unless that is a folder.
func TestNextAnswerReplacesWhatWasRefused(t *testing.T) {
	_, other := saved(t, answer(2))
	for name, damage := range map[string]func(*testing.T, string){"damaged": content("{"), "a symbolic link": link(other)} {
		d, path := saved(t, answer(2))
		damage(t, path)
		save(t, d, query(), answer(3))
		if got, err := d.Load(agent, query()); err != nil || got.Index != 3 {
			t.Errorf("%s: got %+v, %v, want the answer with index 3", name, got, err)
		}
	}
	if !bytes.Contains(get(t, other), []byte(`"index":2`)) {
		t.Error("a symbolic link was followed when saving")
	}
	d, path := saved(t, answer(2))
	folder(t, path)
	if err := d.Save(agent, query(), answer(3)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
	if names := files(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("got the files %q, want no leftover beside the folder", names)
	}
}

func TestFileThatMayNotBeReadIsRefused(t *testing.T) {
	skipAsRoot(t)
	d, path := saved(t, answer(1))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(agent, query()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want permission denied", err)
	}
}

// Whatever byte is flipped to whatever value, the file is refused or still says the same.
//
// Case R19
func TestFlippedByteIsRefusedOrChangesNothing(t *testing.T) {
	d, path := saved(t, answer(2))
	whole := get(t, path)
	for at := range whole {
		for _, bits := range []byte{1, 0x20, 0x80} {
			flip(t, d, path, whole, at, bits)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		at := rapid.IntRange(0, len(whole)-1).Draw(r, "at")
		flip(t, d, path, whole, at, rapid.ByteMin(1).Draw(r, "bits"))
	})
}

func flip(t *testing.T, d snapshot.Dir, path string, whole []byte, at int, bits byte) {
	t.Helper()
	flipped := bytes.Clone(whole)
	flipped[at] ^= bits
	put(t, path, flipped)
	if got, err := d.Load(agent, query()); err == nil && !reflect.DeepEqual(got, answer(2)) {
		t.Errorf("byte %d with the bits %#x flipped: got %+v", at, bits, got)
	}
}

// No file makes anything worse than an error, and what loads can be saved and is
// then the same. The same bytes are tried as a file, as the content of one whose
// checksum is right, and as its instances.
func FuzzLoad(f *testing.F) {
	d, path := saved(f, answer(2))
	whole := get(f, path)
	f.Add(string(whole))
	f.Add(string(whole[:len(whole)/2]))
	one := snapshotOf(`{"address":"[::1]:80","weight":1,"status":"passing","tags":[],"metadata":{}}`)
	f.Add(one)
	f.Add(strings.Replace(one, "2026-05-01T12:00:00Z", "9999-12-31T23:59:59.1-12:00", 1))
	f.Add(strings.Replace(one, `"index":1`, `"index":18446744073709551616`, 1))
	f.Fuzz(func(t *testing.T, data string) {
		for _, file := range []string{data, seal(data), seal(snapshotOf(data))} {
			put(t, path, []byte(file))
			got, err := d.Load(agent, query())
			if err != nil {
				continue
			}
			if len(got.Instances) == 0 {
				t.Errorf("%q gives no instance and no error", file)
			}
			if year := got.Time.UTC().Year(); year < 0 || year > 9999 {
				continue // RFC 3339 has such a time in some zones, and not in UTC
			}
			save(t, d, query(), got)
			if again, err := d.Load(agent, query()); err != nil || !sameSnapshot(again, got) {
				t.Errorf("%q: got %+v, then %+v, %v", file, got, again, err)
			}
		}
	})
}

// sameSnapshot compares times as instants: a file may have them in any zone.
func sameSnapshot(a, b catalog.Snapshot) bool {
	sameTime := a.Time.Equal(b.Time)
	a.Time = b.Time
	return sameTime && reflect.DeepEqual(a, b)
}

// seal makes content a file whose checksum is right.
func seal(content string) string {
	return fmt.Sprintf(`{"version":1,"sha256":"%x","snapshot":%s}`, sha256.Sum256([]byte(content)), content)
}

// snapshotOf is the content of a file with these instances.
func snapshotOf(instances string) string {
	directory, _ := json.Marshal(agent)
	key, _ := json.Marshal(query().Key())
	return fmt.Sprintf(`{"directory":%s,"query":%s,"time":"2026-05-01T12:00:00Z","index":1,"instances":[%s]}`, directory, key, instances)
}

// foreign is the file of another directory or query.
func foreign(t *testing.T, directory string, q catalog.Query) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := open(t, dir).Save(directory, q, answer(1)); err != nil {
		t.Fatal(err)
	}
	return get(t, filepath.Join(dir, files(t, dir)[0]))
}

func content(s string) func(*testing.T, string) {
	return edit(func(string) string { return s })
}

func sealed(s string) func(*testing.T, string) { return content(seal(s)) }

func sealedWith(instances string) func(*testing.T, string) { return sealed(snapshotOf(instances)) }

func replaced(old, by string) func(*testing.T, string) {
	return edit(func(s string) string { return strings.Replace(s, old, by, 1) })
}

func edit(how func(string) string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		before := string(get(t, path))
		after := how(before)
		if after == before {
			t.Fatal("nothing was damaged")
		}
		put(t, path, []byte(after))
	}
}

func enlarge(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func link(to string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
}
