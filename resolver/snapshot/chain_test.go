package snapshot_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/route"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// split is a chain of catalog: so many percent go to v2.
func split(v2 float64) *route.Chain {
	return &route.Chain{
		Service: "catalog", Datacenter: "dc1", Index: 7,
		Routes: []*route.Route{{Name: "default", Arms: []*route.Arm{
			{Name: "v1", Weight: 100 - v2, Target: "v1.catalog"}, {Name: "v2", Weight: v2, Target: "v2.catalog"},
		}}},
		Targets: map[string]*route.Target{
			"v1.catalog": {ID: "v1.catalog", Service: "catalog", Subset: "v1", Datacenter: "dc1", Filter: "Service.Meta.version == 1"},
			"v2.catalog": {ID: "v2.catalog", Service: "catalog", Subset: "v2", Datacenter: "dc1", Filter: "Service.Meta.version == 2"},
		},
	}
}

// savedChain is a folder with the chain of a split, and the path of its file.
func savedChain(t *testing.T) (d snapshot.Dir, path string) {
	t.Helper()
	dir := t.TempDir()
	d = open(t, dir)
	if err := d.SaveChain(agent, "catalog", "", split(10)); err != nil {
		t.Fatal(err)
	}
	return d, filepath.Join(dir, files(t, dir)[0])
}

func text(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every chain that a real Consul has compiled, in all shapes, is loaded as it was saved.
func TestChainsOfAllShapesSurvive(t *testing.T) {
	paths, err := filepath.Glob("../consul/testdata/chains/*.json")
	if err != nil || len(paths) < 50 {
		t.Fatal(len(paths), err)
	}
	d, chains := open(t, t.TempDir()), 0
	for _, path := range paths {
		var shape struct {
			Service, Datacenter string
			Chain               *route.Chain
		}
		if err := json.Unmarshal(get(t, path), &shape); err != nil {
			t.Fatal(path, err)
		}
		if shape.Chain == nil {
			continue
		}
		chains++
		if err := d.SaveChain(agent, shape.Service, shape.Datacenter, shape.Chain); err != nil {
			t.Fatal(path, err)
		}
		got, err := d.LoadChain(agent, shape.Service, shape.Datacenter)
		if err != nil || text(t, got) != text(t, shape.Chain) {
			t.Errorf("%s is loaded as %s, %v", path, text(t, got), err)
		}
		if r, _ := got.Match("/a.B/C", nil); r == nil {
			t.Errorf("%s: the chain that was loaded matches no call", path)
		}
	}
	if chains < 20 {
		t.Errorf("%d chains, want more", chains)
	}
}

// A chain stands beside the instances of its service, each datacenter's for itself, and plain
// discovery removes it.
func TestPlainDiscoveryRemovesAChain(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	load := func(directory, datacenter, want string) {
		t.Helper()
		if got, err := d.LoadChain(directory, "catalog", datacenter); err != nil || text(t, got) != want {
			t.Errorf("of %q, for %q: got %s, %v, want %s", directory, datacenter, text(t, got), err, want)
		}
	}
	save(t, d, query(), answer(2))
	for datacenter, chain := range map[string]*route.Chain{"": split(10), "dc2": split(20)} {
		if err := d.SaveChain(agent, "catalog", datacenter, chain); err != nil {
			t.Fatal(err)
		}
	}
	load(agent, "", text(t, split(10)))
	load(agent, "dc2", text(t, split(20)))
	load(agent, "dc3", "null")
	load("consul at 10.9.9.9:8500", "", "null")
	for range 2 {
		if err := d.SaveChain(agent, "catalog", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	load(agent, "", "null")
	load(agent, "dc2", text(t, split(20)))
	if got, err := d.Load(agent, query()); err != nil || len(got.Instances) != 2 {
		t.Errorf("the instances are %+v, %v", got, err)
	}
}

// A kept chain that is damaged, foreign, of a later version or not supported is refused, and the
// error says why.
//
// Case R19
func TestChainThatCannotBeUsedIsRefused(t *testing.T) {
	changed := func(change func(*route.Chain)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			c := split(10)
			change(c)
			sealed(fmt.Sprintf(`{"directory":%q,"service":"catalog","chain":%s}`, agent, text(t, c)))(t, path)
		}
	}
	for name, test := range map[string]struct {
		damage func(t *testing.T, path string)
		says   string
	}{
		"empty file":         {content(""), "it is empty"},
		"truncated":          {edit(func(s string) string { return s[:len(s)/2] }), "it is damaged: unexpected end of JSON input"},
		"another weight":     {replaced(`"weight":90`, `"weight":80`), "it is damaged: sha256 is "},
		"a newer format":     {replaced(`"version":1`, `"version":2`), "its format version is 2, want 1"},
		"a symbolic link":    {link("nowhere"), "it is a symbolic link, want a regular file: remove it"},
		"another directory":  {sealed(`{"directory":"other","service":"catalog"}`), `it belongs to the directory "other"`},
		"another service":    {sealed(fmt.Sprintf(`{"directory":%q,"service":"inventory"}`, agent)), `it is the discovery chain of "inventory" for "", want that of "catalog"`},
		"another datacenter": {sealed(fmt.Sprintf(`{"directory":%q,"service":"catalog","datacenter":"dc2"}`, agent)), `for "dc2", want that of "catalog" for ""`},
		"no chain":           {sealed(fmt.Sprintf(`{"directory":%q,"service":"catalog","chain":null}`, agent)), "it has no discovery chain"},
		"content of another": {sealed(fmt.Sprintf(`{"directory":%q,"query":"service=catalog","instances":[]}`, agent)), `unknown field "query"`},
		"a field of later":   {sealed(fmt.Sprintf(`{"directory":%q,"service":"catalog","chain":{"service":"catalog","mirror":{}}}`, agent)), `unknown field "mirror"`},
		"a wrong type":       {sealed(fmt.Sprintf(`{"directory":%q,"service":"catalog","chain":{"routes":7}}`, agent)), "its content is not a discovery chain: json: cannot unmarshal number"},
		"of another service": {changed(func(c *route.Chain) { c.Service = "inventory" }), `its discovery chain is that of "inventory"`},
		"no route":           {changed(func(c *route.Chain) { c.Routes = nil }), "the chain has no route"},
		"a null route":       {changed(func(c *route.Chain) { c.Routes[0] = nil }), "route 1 is null"},
		"a null arm":         {changed(func(c *route.Chain) { c.Routes[0].Arms[0] = nil }), "arm 1 is null"},
		"a null target":      {changed(func(c *route.Chain) { c.Targets["v1.catalog"] = nil }), `the target "v1.catalog" is null`},
		"too much weight":    {changed(func(c *route.Chain) { c.Routes[0].Arms[0].Weight = 1000 }), "the weight 1000"},
		"a missing target":   {changed(func(c *route.Chain) { c.Routes[0].Arms[0].Target = "v9" }), `goes to the target "v9"`},
		"a key of gRPC": {changed(func(c *route.Chain) {
			c.Routes[0].Arms[0].Request = []route.Headers{{Set: map[string]string{"grpc-timeout": "1S"}}}
		}), "grpc-timeout"},
		"a costly expression": {changed(func(c *route.Chain) { c.Routes[0].Match.PathRegex = "(?:abcdefgh){1000}" }), "the path "},
		"what only HTTP has":  {changed(func(c *route.Chain) { c.Routes[0].PrefixRewrite = "/b" }), "PrefixRewrite"},
		"more than it may have": {changed(func(c *route.Chain) {
			for range 1000 {
				c.Routes = append(c.Routes, c.Routes[0])
			}
		}), "the chain has 1001 routes"},
	} {
		t.Run(name, func(t *testing.T) {
			d, path := savedChain(t)
			test.damage(t, path)
			got, err := d.LoadChain(agent, "catalog", "")
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) || len(err.Error()) > 1500 {
				t.Errorf("got %v, want %q and the path %s", err, test.says, path)
			}
			if got != nil {
				t.Errorf("got %+v beside an error", got)
			}
			if err := d.SaveChain(agent, "catalog", "", split(30)); err != nil {
				t.Fatal(err)
			}
			if got, err := d.LoadChain(agent, "catalog", ""); err != nil || text(t, got) != text(t, split(30)) {
				t.Errorf("the next answer is loaded as %s, %v", text(t, got), err)
			}
		})
	}
}

// What could not be loaded again is not saved.
func TestChainThatCannotBeLoadedIsNotSaved(t *testing.T) {
	d, path := savedChain(t)
	bad := split(10)
	bad.Routes[0].Arms[0].Target = "v9"
	if err := d.SaveChain(agent, "catalog", "", bad); err == nil || !strings.Contains(err.Error(), `"v9"`) {
		t.Errorf("got %v", err)
	}
	if got, err := d.LoadChain(agent, "catalog", ""); err != nil || text(t, got) != text(t, split(10)) {
		t.Errorf("got %s, %v, want what was saved before", text(t, got), err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, want mode 0600", info, err)
	}
}

// Chains count among the snapshots that a folder keeps.
func TestChainsAreEvicted(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	for n := range 1024 {
		put(t, filepath.Join(dir, fmt.Sprintf("catalog-%x.json", sha256.Sum256([]byte{byte(n), byte(n >> 8)}))[:8+32]+".json"), nil)
	}
	if err := d.SaveChain(agent, "catalog", "", split(10)); err != nil {
		t.Fatal(err)
	}
	if n := len(files(t, dir)); n != 1024 {
		t.Errorf("the folder has %d files, want 1024", n)
	}
}
