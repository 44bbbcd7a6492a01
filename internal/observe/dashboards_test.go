package observe

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what Grafana reads, as far as it is checked here.
type dashboard struct {
	UID           string
	Title         string
	SchemaVersion int
	Templating    struct{ List []variable }
	Panels        []panel
}

type variable struct {
	Name, Type string
	Query      json.RawMessage
}

type panel struct {
	ID          int
	Title, Type string
	Datasource  source
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		RefID, Expr string
		Datasource  source
	}
}

type source struct{ UID string }

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	read := map[string]dashboard{}
	for name, text := range files(t, filepath.Join(top, "deploy", "grafana", "dashboards", "*.json")) {
		var d dashboard
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		read[name] = d
	}
	return read
}

// labelValues reads the query of a variable.
var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// query is what a variable asks for: the metric and the label.
func (v variable) query(t *testing.T) (metric, label string) {
	t.Helper()
	var q struct{ Query string }
	if err := json.Unmarshal(v.Query, &q); err != nil {
		t.Fatalf("variable %s: %v", v.Name, err)
	}
	parts := labelValues.FindStringSubmatch(q.Query)
	if parts == nil {
		t.Fatalf("variable %s asks %q, want label_values", v.Name, q.Query)
	}
	return parts[1], parts[2]
}

// What Grafana would take without a word, and show as a mess.
func TestDashboardsAreWellFormed(t *testing.T) {
	uids, ids, titles := map[string]string{}, map[string]bool{}, map[string]bool{}
	for name, d := range dashboards(t) {
		if other, taken := uids[d.UID]; taken || d.UID == "" || d.Title == "" || d.SchemaVersion < 39 || len(d.Panels) == 0 {
			t.Errorf("%s: uid %q (as %q), title %q, schemaVersion %d, %d panels", name, d.UID, other, d.Title, d.SchemaVersion, len(d.Panels))
		}
		uids[d.UID] = name
		taken := map[[2]int]string{}
		for _, p := range d.Panels {
			id := fmt.Sprint(name, p.ID)
			if ids[id] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s: panel %d, %q, at %+v: its id is taken, it has no title or it is too wide", name, p.ID, p.Title, p.GridPos)
			}
			ids[id], titles[p.Title] = true, true
			if p.Type == "row" {
				continue
			}
			if len(p.Targets) == 0 {
				t.Errorf("%s: %s asks nothing", name, p.Title)
			}
			for x := range p.GridPos.W {
				for y := range p.GridPos.H {
					at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
					if taken[at] != "" && taken[at] != p.Title {
						t.Fatalf("%s: %s lies upon %s", name, p.Title, taken[at])
					}
					taken[at] = p.Title
				}
			}
			for _, target := range p.Targets {
				if p.Datasource.UID != "${datasource}" || target.Datasource.UID != "${datasource}" {
					t.Errorf("%s: %s asks %q, %q, want the variable", name, p.Title, p.Datasource.UID, target.Datasource.UID)
				}
				for _, used := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
					if used[1] != "__rate_interval" && !hasVariable(d, used[1]) {
						t.Errorf("%s: %s uses $%s, which is no variable", name, p.Title, used[1])
					}
				}
			}
		}
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				v.query(t)
			}
		}
		if !hasVariable(d, "datasource") {
			t.Errorf("%s has no variable datasource", name)
		}
	}
	for title := range unasked {
		if !titles[title] {
			t.Errorf("%q need not have data, and is no panel", title)
		}
	}
}

func hasVariable(d dashboard, name string) bool {
	for _, v := range d.Templating.List {
		if v.Name == name {
			return true
		}
	}
	return false
}

// Provisioning names the environment that docs/observability.md sets.
func TestProvisioningIsWhatTheDocsSay(t *testing.T) {
	page := files(t, filepath.Join(top, "docs", "observability.md"))["observability.md"]
	for _, kind := range []string{"datasources", "dashboards"} {
		texts := files(t, filepath.Join(top, "deploy", "grafana", "provisioning", kind, "*.yml"))
		for name := range all(texts, `\$\{(\w+)\}`) {
			if !strings.Contains(page, name+"=") {
				t.Errorf("provisioning of %s reads %s, which docs/observability.md does not set", kind, name)
			}
		}
	}
}
