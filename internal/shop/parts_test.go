package shop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/consulagent"
)

func TestProgramsThatAreNotThere(t *testing.T) {
	dir := t.TempDir()
	_, err := findPrograms(dir)
	want := fmt.Sprintf("the programs catalog, inventory, storefront, gateway of the sweet shop are not in %s: build them with `make build` or `go install github.com/meshlite-go/meshlite/cmd/...@latest`", dir)
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestProgramsOnPath(t *testing.T) {
	dir := programsDir(t)
	t.Setenv("PATH", dir)
	t.Chdir(t.TempDir())
	found, err := findPrograms("")
	if err != nil || found["catalog"] != dir+"/catalog" {
		t.Errorf("got %v, %v, want the programs of %s", found, err, dir)
	}
}

func TestParseChoice(t *testing.T) {
	for text, want := range map[string]Choice{"auto": Auto, "": Auto, "consul": Consul, "embedded": Embedded} {
		if got, err := ParseChoice(text); err != nil || got != want {
			t.Errorf("%q is %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := ParseChoice("etcd"); err == nil || err.Error() != `registry "etcd" is not known: write auto, consul or embedded` {
		t.Errorf("got %v, want the value and the fix", err)
	}
}

func TestAutoWithoutConsulIsEmbeddedAndSaysHowToGetOne(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Chdir(t.TempDir())
	if path, err := consulagent.Find(); err == nil {
		t.Skipf("there is a consul above the temporary folder: %s", path)
	}
	registry, err := StartRegistry(t.Context(), Auto)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Stop()
	if registry.Name != "embedded" || !strings.Contains(registry.Hint, "make consul") {
		t.Errorf("got %+v, want the embedded one and how to get a real one", registry)
	}
	if _, err := StartRegistry(t.Context(), Consul); err == nil || !strings.Contains(err.Error(), "--registry=embedded") {
		t.Errorf("got %v, want the fix", err)
	}
}
