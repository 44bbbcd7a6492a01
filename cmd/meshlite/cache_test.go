package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

const sweetMethod = "sweetshop.catalog.v1.CatalogService/GetSweet"

// serveCaches is an admin page that reports caches and, asked to clear, answers cleared.
func serveCaches(t *testing.T, caches, cleared string) (address string, asked <-chan string) {
	t.Helper()
	bodies := make(chan string, 10)
	return servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			_, _ = io.WriteString(w, `{"cache": {"caches": `+caches+`}}`)
			return
		}
		body, _ := io.ReadAll(r.Body)
		bodies <- r.URL.Path + " " + r.Header.Get("Meshlite-Action") + " " + string(body)
		_, _ = io.WriteString(w, cleared)
	})), bodies
}

// openCachingShop is a catalog in Consul, and a client of it with three answers.
func openCachingShop(t *testing.T) (agent *consultest.Server, page string) {
	t.Helper()
	agent = openAgent(t)
	openShop(t, "catalog", 1)
	page = openClient(t, 3, "consul:///catalog")
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", page)
	return agent, page
}

func TestCacheStatsOfProcessesThatConsulKnows(t *testing.T) {
	agent, page := openCachingShop(t)
	enlistClient(t, agent, "prices", "prices-1", "127.0.0.1:82", openClient(t, 0))
	enlist(t, agent, "inventory", "inventory-1", "127.0.0.1:83", "passing") // has no admin page
	eventually(t, func() bool { return strings.Contains(runTool(t, "services").out, "storefront") })
	r := runTool(t, "cache", "stats")
	r.want(t, 0, "storefront-1 ("+page+"), cache runtime\n3 entries, ", "")
	r.want(t, 0, "HITS  1M  5M  15M  CALLS  COALESCED  STALE  BYPASSED  ENTRIES  SIZE\n"+sweetMethod+"\n  0%    0%  0%  0%   3      0          0      0         3        ", "")
	r.want(t, 0, "\n\nprices-1 (", "")
	r.want(t, 0, "), cache runtime: no calls yet\n", "")
	r = runTool(t, "cache", "stats", "storefront", "--index")
	r.want(t, 0, "\n\nID  ", "")
	r.want(t, 0, "  "+sweetMethod+"\n", "")
	if strings.Contains(r.out, "prices-1") {
		t.Errorf("of another service: %s", r.out)
	}
	for _, line := range strings.Split(r.out, "\n") {
		if len(line) > 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

// The help names each field, and the index is there if asked for and not empty.
func TestCacheStatsAsJSON(t *testing.T) {
	_, page := openCachingShop(t)
	r := runTool(t, "cache", "stats", "storefront", "--index", "-o", "json")
	var output struct {
		Processes []struct {
			ID, Address string
			Caches      []map[string]any
		}
	}
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	if err := d.Decode(&output); err != nil || len(output.Processes) != 1 || output.Processes[0].ID != "storefront-1" || output.Processes[0].Address != page {
		t.Fatalf("got %s (%v)", r.out, err)
	}
	help := runTool(t, "cache", "stats", "--help").out
	cache := output.Processes[0].Caches[0]
	for _, fields := range []any{cache, cache["methods"].([]any)[0], cache["index"].([]any)[0]} {
		for field := range fields.(map[string]any) {
			if !strings.Contains(help, field) {
				t.Errorf("the help does not name %s", field)
			}
		}
	}
	if r := runTool(t, "cache", "stats", "-o", "json"); strings.Contains(r.out, `"index"`) {
		t.Errorf("the index is there without --index: %s", r.out)
	}
	idle := openClient(t, 0)
	if r := runTool(t, "cache", "stats", "--index", "-o", "json", "--client", idle); !strings.Contains(r.out, `"methods": []`) || strings.Contains(r.out, `"index"`) {
		t.Errorf("of a cache that keeps nothing: %s", r.out)
	}
}

// What each figure looks like. Others have written it, and may be up to no good.
func TestCacheStatsInWords(t *testing.T) {
	openAgent(t)
	address, _ := serveCaches(t, `[{"name": "consul:///catalog", "entries": 120, "bytes": 3482, "max_bytes": 67108864, "invalidations": 2, "store_errors": 1, "methods": [
		{"method": "a.v1.S/Get", "entries": 119, "bytes": 1099511627776, "hits": 5, "misses": 2, "coalesced": 2, "stale": 1, "bypassed": 7,
		 "last_minute": {"served": 1, "calls": 2}, "last_15_minutes": {"served": 3, "calls": 3}},
		{"method": "a.v1.S/Try", "shadow_hits": 9, "shadow_stale": 1, "misses": 10, "shadow": [{"up_to_seconds": 1}, {"up_to_seconds": 5, "compared": 8},
		 {"up_to_seconds": 15, "compared": 8}, {"up_to_seconds": 300, "compared": 9}, {"compared": 10, "changed": 1}]},
		{"bytes": -5, "entries": -1}],
		"index": [{"method": "a.v1.S/Get", "id": "kJx8", "code": "NotFound", "bytes": 210, "age_seconds": 12.4, "left_seconds": 17.6}, {"method": "a\u001b[2J", "code": "OK", "age_seconds": 1e300, "left_seconds": -1}]}]`, "")
	runTool(t, "cache", "stats", "--index", "--client", address).want(t, 0, address+`, cache consul:///catalog
120 entries, 3.4 KiB of 64 MiB, 2 invalidations, 1 store errors
  HITS  1M   5M  15M   CALLS  COALESCED  STALE  BYPASSED  ENTRIES  SIZE
a.v1.S/Get
  80%   50%  -   100%  10     2          1      7         119      1.0 TiB
a.v1.S/Try
  0%    -    -   -     20     0          0      0         0        0 B
  shadow: with a ttl of 5s 8 hits, 0% of them no longer true
  shadow: with a ttl of 5m0s 9 hits, 0% of them no longer true
  shadow: with any ttl 10 hits, 10% of them no longer true
(all others)
  -     -    -   -     0      0          0      0         -1       0 B

the 2 most requested entries
ID    SIZE   AGE         LEFT  METHOD
kJx8  210 B  12s         18s   a.v1.S/Get, NotFound
-     0 B    277h46m40s  over  a`+"\ufffd[2J\n", "")
}

func TestCacheClear(t *testing.T) {
	_, page := openCachingShop(t)
	const who = "storefront-1 ("
	for _, test := range []struct{ args, out, err string }{
		{"storefront --tag sweets", "), cache runtime: cleared\n", ""},
		{"storefront --method a.v1.S/M", "), cache runtime: cleared 0 entries\n", "no cache has met a call of a.v1.S/M: is the name right?"},
		{"storefront --method " + sweetMethod, "), cache runtime: cleared 3 entries\n", ""},
		{"--all", "), cache runtime: cleared 3 entries\n", ""},
		{"--all", "), cache runtime: cleared 0 entries\n", ""},
	} {
		r := runTool(t, append([]string{"cache", "clear"}, strings.Fields(test.args)...)...)
		r.want(t, 0, who+page+test.out, test.err)
		if test.err == "" && r.err != "" {
			t.Errorf("%s: stderr %q, want nothing", test.args, r.err)
		}
	}
	runTool(t, "cache", "stats").want(t, 0, "0 entries, 0 B of 64 MiB, 5 invalidations\n", "")
}

func TestCacheClearAsJSON(t *testing.T) {
	openAgent(t)
	address, asked := serveCaches(t, "[]", `{"caches": [{"name": "runtime", "entries": 3, "unknown_methods": ["a.v1.S/M"], "new": 1}, {"name": "x", "error": "redis is away"}]}`)
	gone := closedPort(t)
	r := runTool(t, "cache", "clear", "--method", "a.v1.S/M", "--tag", "b c", "-o", "json", "--client", address, "--client", gone)
	r.want(t, 1, "", "1 of 2 processes were not cleared: see above, and clear again\n")
	var output struct {
		Processes []struct {
			Address, Error string
			Caches         []struct {
				Name, Error string
				Entries     *int
				Unknown     []string `json:"unknown_methods"`
			}
		}
	}
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	if err := d.Decode(&output); err != nil || len(output.Processes) != 2 {
		t.Fatalf("got %s (%v)", r.out, err)
	}
	for _, p := range output.Processes {
		switch p.Address {
		case gone:
			if p.Error == "" || p.Caches == nil || len(p.Caches) != 0 {
				t.Errorf("who is gone is %+v", p)
			}
		case address:
			if len(p.Caches) != 2 || *p.Caches[0].Entries != 3 || p.Caches[0].Unknown[0] != "a.v1.S/M" || p.Caches[1].Entries != nil || p.Caches[1].Error != "redis is away" {
				t.Errorf("who has cleared is %+v", p)
			}
		}
	}
	if got, want := <-asked, "/debug/meshlite/cache/clear cache/clear method=a.v1.S%2FM&tag=b+c"; got != want {
		t.Errorf("it was asked %s, want %s", got, want)
	}
}

// A clearing that failed, or was not done everywhere, is an error.
func TestCacheClearThatIsNotDoneEverywhere(t *testing.T) {
	openAgent(t)
	well, _ := serveCaches(t, "[]", `{"caches": [{"name": "runtime", "entries": 3}]}`)
	unpublished, _ := serveCaches(t, "[]", `{"caches": [{"name": "runtime", "error": "redis is\naway"}]}`)
	refuses := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not\x1b today", http.StatusForbidden) }))
	older := serveText(t, `{"cache": {}}`)
	hangs := servePage(t, http.NotFoundHandler())
	for _, test := range []struct {
		client   string
		out, err string
	}{
		{unpublished, ": cleared, but: redis is; away\n", "stores that did not publish it: 1: other processes may keep"},
		{refuses, "", "cannot ask " + refuses + ": not\ufffd today\nmeshlite: 1 of 2 processes were not cleared: see above, and clear again\n"},
		{older, "", "418 I'm a teapot for /debug/meshlite/cache/clear: is it built with an older meshlite?"},
		{hangs, "", "404 Not Found for /debug/meshlite/cache/clear: is it built with an older meshlite?"},
		{closedPort(t), "", "connection refused: has it ended?"},
	} {
		r := runTool(t, "cache", "clear", "--all", "--client", well, "--client", test.client)
		r.want(t, 1, well+", cache runtime: cleared 3 entries\n", test.err)
		r.want(t, 1, test.out, "")
	}
	runTool(t, "cache", "clear", "--all", "--client", closedPort(t)).want(t, 1, "", "meshlite: no process could be asked: see above\n")
}

// Who is in a service that may not be read is not cleared.
func TestCacheClearWhereAServiceCannotBeRead(t *testing.T) {
	agent := openAgent(t)
	well, _ := serveCaches(t, "[]", `{"caches": [{"name": "runtime", "entries": 3}]}`)
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", well)
	enlist(t, agent, "prices", "prices-1", "10.0.0.2:80", "passing")
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		refused := strings.HasPrefix(r.URL.Path, "/v1/health/service/prices")
		if refused {
			http.Error(w, "Permission denied", http.StatusForbidden)
		}
		return refused
	})
	r := runTool(t, "cache", "clear", "--all")
	r.want(t, 1, "cleared 3 entries\n", "meshlite: services that could not be read, and whose processes were not cleared: 1: see above\n")
	runTool(t, "cache", "clear", "storefront", "--all").want(t, 0, "cleared 3 entries\n", "")
}

func TestCacheStatsThatCannotBeHad(t *testing.T) {
	agent := openAgent(t)
	runTool(t, "cache", "stats").want(t, 1, "", "lists no instance that publishes metrics_address: a program that is no server is in no directory")
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	runTool(t, "cache", "stats", "catalog").want(t, 1, "", `no instance of "catalog" publishes metrics_address: is it a meshlite server`)
	runTool(t, "cache", "stats", "catlog").want(t, 1, "", `has no service "catlog": is it catalog?`)
	runTool(t, "cache", "clear", "catlog", "--all").want(t, 1, "", `has no service "catlog": is it catalog?`)
	older, gone := serveText(t, `{"cache": {"Hits": 1}, "endpoints": []}`), closedPort(t)
	runTool(t, "cache", "stats", "--client", older).want(t, 1, "", "an answer without caches: is it built with an older meshlite?\nmeshlite: no process could be asked")
	well, _ := serveCaches(t, `[{"name": "runtime"}]`, "")
	runTool(t, "cache", "stats", "--client", well, "--client", gone).want(t, 0, ": no calls yet\n", "cannot ask "+gone+": connection refused: has it ended?\n")
	enlistClient(t, agent, "prices", "elsewhere", "203.0.113.7:80", "127.0.0.1:9090")
	runTool(t, "cache", "clear", "prices", "--all").want(t, 1, "", "its admin page is on the loopback of host 203.0.113.7")
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t))
	runTool(t, "cache", "stats").want(t, 1, "", "refused the connection")
}

func TestFlagsOfCache(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t)) // none of these asks for anything
	for args, want := range map[string]string{
		"fill":                                  `"fill" is not a command of meshlite cache: write clear, stats`,
		"stats a b":                             "cache stats takes SERVICE or nothing, not 2 arguments",
		"stats consul:///catalog":               `service "consul:///catalog": write the name of a service`,
		"stats catalog --client a:1":            `service "catalog" together with --client: leave one out`,
		"stats --client a":                      `--client "a": write host:port`,
		"stats --client a:1 --dc dc1":           "--client together with --http-addr or --dc",
		"stats --all":                           "unknown flag: --all",
		"clear":                                 "nothing says what to clear: write --method, --tag or --all",
		"clear catalog":                         "nothing says what to clear",
		"clear catalog --client a:1":            "nothing says what to clear",
		"clear --all=false":                     "nothing says what to clear",
		"clear --all --tag a":                   "--all together with --method or --tag",
		"clear --all --method a.B/C":            "--all together with --method or --tag",
		"clear --method GetSweet":               `--method "GetSweet": write package.Service/Method`,
		"clear --method /a.B/C":                 `--method "/a.B/C"`,
		"clear --method a.B/C --method a.B/C/D": `--method "a.B/C/D"`,
		"clear --tag=":                          `--tag "": write a tag`,
		"clear a b --all":                       "cache clear takes SERVICE or nothing, not 2 arguments",
		"clear --all --http-addr a":             `--http-addr "a": write host:port`,
	} {
		t.Run(args, func(t *testing.T) {
			r := runTool(t, append([]string{"cache"}, strings.Fields(args)...)...)
			r.want(t, 2, "", want)
			if r.out != "" || strings.Count(r.err, "\n") != 1 {
				t.Errorf("stdout %q, stderr %q, want one line", r.out, r.err)
			}
		})
	}
	runTool(t, "cache").want(t, 0, "Available Commands:", "")
	runTool(t, "__complete", "cache", "").want(t, 0, "clear\tDrop what", "")
	runTool(t, "__complete", "cache", "clear", "--method", "").want(t, 0, ":4\n", "")
	runTool(t, "__complete", "cache", "stats", "--cl").want(t, 0, "--client\t", "")
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	runTool(t, "__complete", "cache", "clear", "").want(t, 0, "catalog\n", "")
}
