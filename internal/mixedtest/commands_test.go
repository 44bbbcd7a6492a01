package mixedtest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

const commandTimeout = 30 * time.Second

// commands runs those of both releases on the pages of all instances.
func commands(t *testing.T, registry *shop.Registry, f *fleet, releases ...release) {
	for _, r := range releases {
		run := func(t *testing.T, args ...string) map[string]any {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
			defer cancel()
			output, err := command(ctx, "", r.program("meshlite"), append(args, "--http-addr", registry.Address, "-o", "json")...)
			if err != nil {
				t.Fatalf("%s\n%s", err, output)
			}
			var answer map[string]any
			if err := json.Unmarshal(output, &answer); err != nil {
				t.Fatalf("%v in %s", err, output)
			}
			return answer
		}
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			t.Run("check", func(t *testing.T) {
				if answer := run(t, "check"); answer["failed"] != 0.0 {
					t.Errorf("%v", answer)
				}
			})
			t.Run("endpoints", func(t *testing.T) {
				for service, running := range f.running {
					wantInstances(t, run(t, "endpoints", service)["endpoints"], running, "status")
				}
			})
			t.Run("picks", func(t *testing.T) {
				clients := wantInstances(t, run(t, "endpoints", "catalog", "--picks")["clients"], f.running["storefront"])
				for _, client := range clients {
					for _, target := range client["targets"].([]any) {
						wantInstances(t, target.(map[string]any)["endpoints"], f.running["catalog"], "picks", "weight", "share", "state")
					}
				}
			})
			t.Run("cache", func(t *testing.T) {
				for _, process := range wantInstances(t, run(t, "cache", "stats", "storefront")["processes"], f.running["storefront"]) {
					wantFigures(t, process["caches"], "hits", "misses", "stored", "entries")
				}
			})
			t.Run("limits", func(t *testing.T) {
				for _, process := range wantInstances(t, run(t, "limits", "storefront")["processes"], f.running["storefront"]) {
					wantFigures(t, process["limiters"], "admitted", "refused")
				}
			})
			t.Run("top", func(t *testing.T) {
				for _, service := range run(t, "top", "storefront", "--once")["services"].([]any) {
					figures := service.(map[string]any)
					wantInstances(t, figures["instances"], f.running["storefront"], "calls_per_second", "success", "p50_ms")
				}
			})
		})
	}
}

// wantInstances fails the test unless list has each of running, with a figure of each name.
func wantInstances(t *testing.T, list any, running []*shop.Instance, figures ...string) (found []map[string]any) {
	t.Helper()
	rows, _ := list.([]any)
	byID := map[any]map[string]any{}
	for _, row := range rows {
		fields := row.(map[string]any)
		byID[fields["id"]] = fields
	}
	for _, i := range running {
		row, ok := byID[i.ID]
		if !ok {
			t.Errorf("%s is not in %v", i.ID, list)
			continue
		}
		wantFigures(t, []any{row}, figures...)
		found = append(found, row)
	}
	return found
}

// wantFigures fails the test unless each row of list has something under each name.
func wantFigures(t *testing.T, list any, names ...string) {
	t.Helper()
	rows, _ := list.([]any)
	if len(rows) == 0 {
		t.Error("there are no rows")
	}
	for _, row := range rows {
		for _, name := range names {
			if row.(map[string]any)[name] == nil {
				t.Errorf("no %q in %v", name, row)
			}
		}
	}
}
