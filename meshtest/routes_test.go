package meshtest_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/meshtest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// What docs/testing.md says of routes: entries of files decide where calls go, and a change is
// seen within a second.
func TestCallsGoWhereTheEntriesOfFilesSay(t *testing.T) {
	dir := t.TempDir()
	for name, entry := range map[string]string{
		"service-defaults.json": `{"Kind": "service-defaults", "Name": "catalog", "Protocol": "grpc"}`,
		"service-resolver.json": `{"Kind": "service-resolver", "Name": "catalog", "DefaultSubset": "v1", "Subsets": {
			"v1": {"Filter": "Service.Meta.version == 1"}, "v2": {"Filter": "Service.Meta.version == 2"}}}`,
		"service-router.json": `{"Kind": "service-router", "Name": "catalog", "Routes": [{
			"Match": {"HTTP": {"Header": [{"Name": "x-canary", "Exact": "yes"}]}}, "Destination": {"ServiceSubset": "v2"}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(entry), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		version := func(version string) meshlite.ServerOption {
			return meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Metadata: map[string]string{"version": version}}})
		}
		old, canary := mesh.Serve("catalog", register, version("1")), mesh.Serve("catalog", register, version("2"))
		for _, file := range []string{"service-defaults.json", "service-resolver.json", "service-router.json"} {
			entry, err := os.ReadFile(filepath.Join(dir, file))
			if err == nil {
				err = mesh.Agent.WriteConfig(entry)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		shop := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-canary", "yes")
		get := func(id string) {
			t.Helper()
			if _, err := shop.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}); err != nil {
				t.Error(err)
			}
		}
		get("fudge")
		if old.Calls() != 0 || canary.Calls() != 1 {
			t.Errorf("%d and %d calls, want one at the canary", old.Calls(), canary.Calls())
		}
		if err := mesh.Agent.DeleteConfig("service-router", "catalog"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		get("toffee")
		if old.Calls() != 1 || canary.Calls() != 1 {
			t.Errorf("%d and %d calls, want one at each", old.Calls(), canary.Calls())
		}
	})
}
