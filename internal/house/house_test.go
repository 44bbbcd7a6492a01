// Package house holds the tests that keep the house in order: which room may
// import which, what every package must have, and how long a file may be.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

const module = "github.com/meshlite-go/meshlite"

// rooms says which other rooms of the module each may import, outside of tests. A
// name with /... stands for all below it. What is not listed may import nothing
// of the module.
var rooms = map[string][]string{
	"proto/...":                       {"proto/..."},
	"balancer/attempt":                {},
	"resolver/catalog":                {},
	"resolver/route":                  {"internal/expression", "internal/httpform"},
	"caller":                          {"internal/wire"},
	"identity":                        {"internal/peeked", "internal/wire"},
	"identity/consulca":               {"identity", "internal/renewal"},
	"identity/intention":              {"internal/expression"},
	"identity/spire":                  {"identity", "internal/renewal"},
	"identity/identitymetrics":        {"identity"},
	"balancer":                        {"resolver/catalog", "balancer/attempt", "internal/lines", "internal/rendezvous", "internal/rpc", "internal/wire"},
	"balancer/hash":                   {"balancer", "balancer/random"},
	"balancer/random":                 {"balancer"},
	"balancer/roundrobin":             {"balancer", "balancer/attempt"},
	"balancer/leastrequest":           {"balancer", "balancer/attempt"},
	"balancer/peakewma":               {"balancer", "balancer/attempt"},
	"balancer/balancermetrics":        {"balancer", "internal/series", "resolver"},
	"balancer/routes":                 {"balancer", "balancer/attempt", "balancer/hash", "balancer/leastrequest", "balancer/random", "balancer/roundrobin", "internal/lines", "internal/rendezvous", "resolver/catalog", "resolver/route"},
	"balancer/routes/routesmetrics":   {"balancer/routes", "internal/series"},
	"resolver/consul":                 {"identity", "identity/intention", "internal/renewal", "resolver/catalog", "resolver/route"},
	"resolver":                        {"resolver/catalog", "resolver/route", "balancer", "balancer/routes", "internal/wire"},
	"resolver/resolvermetrics":        {"internal/series", "resolver", "resolver/catalog", "resolver/consul"},
	"resolver/snapshot":               {"resolver/catalog", "resolver/route"},
	"resolver/consultest":             {},
	"meshtest":                        {"", "caller", "resolver/consul", "resolver/consultest"},
	"interceptors/hop":                {},
	"interceptors":                    {"interceptors/hop", "proto/...", "balancer/attempt", "caller", "identity/intention", "internal/guard", "internal/rpc", "internal/weakset", "internal/wire"},
	"interceptors/...":                {"interceptors", "interceptors/hop", "caller", "balancer/attempt", "proto/...", "resolver/route", "internal/wire", "internal/guard", "internal/rpc"},
	"interceptors/authz":              {"interceptors", "interceptors/hop", "caller", "identity/intention", "internal/guard", "internal/lines"},
	"interceptors/cache":              {"interceptors", "interceptors/hop", "internal/wire", "caller", "interceptors/cache/cachecontrol", "balancer/attempt", "proto/...", "internal/guard", "internal/rpc"},
	"interceptors/logging":            {"interceptors", "interceptors/hop", "caller", "balancer/attempt", "internal/lines", "internal/rpc"},
	"interceptors/tracing/env":        {"interceptors/tracing"},
	"interceptors/cache/redis":        {"internal/redisconn"},
	"interceptors/ratelimit/redis":    {"interceptors/ratelimit", "internal/redisconn"},
	"internal/programstest":           {},
	"internal/racetest":               {},
	"internal/redisconn":              {},
	"internal/redistest":              {"internal/child", "internal/freeport"},
	"admin":                           {"caller", "internal/peeked"},
	"":                                {"admin", "balancer", "balancer/...", "caller", "identity", "identity/identitymetrics", "interceptors", "interceptors/...", "internal/cachepage", "internal/callstream", "internal/explain", "internal/guard", "internal/limitspage", "internal/weakset", "proto/...", "resolver", "resolver/catalog", "resolver/consul", "resolver/resolvermetrics", "resolver/snapshot", "internal/wire"},
	"internal/cachepage":              {"interceptors/cache", "internal/weakset"},
	"internal/limitspage":             {"interceptors/concurrency", "interceptors/ratelimit", "internal/weakset"},
	"internal/explain":                {"balancer/routes", "interceptors", "interceptors/cache", "interceptors/mirror", "interceptors/ratelimit", "interceptors/retry"},
	"internal/weakset":                {},
	"services/...":                    {"", "proto/..."},
	"cmd/...":                         {"..."},
	"internal/...":                    {"..."},
	"internal/httpform":               {},
	"internal/expression":             {},
	"internal/lines":                  {},
	"internal/callstream":             {"balancer/leastrequest", "balancer/peakewma", "balancer/roundrobin", "balancer/routes", "internal/rpc", "proto/..."},
	"internal/rendezvous":             {},
	"internal/peeked":                 {},
	"internal/wire":                   {},
	"internal/prototypes":             {},
	"internal/guard":                  {},
	"internal/renewal":                {"identity"},
	"internal/rpc":                    {},
	"internal/series":                 {},
	"internal/series/seriestest":      {},
	"gateway":                         {"", "balancer", "gateway/...", "interceptors", "proto/...", "resolver", "resolver/catalog"},
	"gateway/problem":                 {},
	"gateway/contract":                {"interceptors"},
	"gateway/transcode":               {"gateway/contract", "gateway/problem", "interceptors/cache", "interceptors/cache/cachecontrol", "internal/prototypes", "internal/wire"},
	"gateway/httpcache":               {"interceptors/cache/cachecontrol"},
	"gateway/httpproxy":               {"balancer", "balancer/attempt", "balancer/routes", "gateway/problem", "internal/httpform", "internal/lines", "resolver", "resolver/catalog", "resolver/route"},
	"gateway/edge":                    {"caller", "gateway/problem", "interceptors/ratelimit", "internal/httpform", "internal/lines", "internal/rpc"},
	"gateway/openapi":                 {"gateway/contract", "gateway/problem", "gateway/transcode"},
	"gateway/jwt":                     {},
	"interceptors/authz/authzmetrics": {"interceptors/authz"},
	"interceptors/cache/cachemetrics": {"interceptors/cache"},
	"interceptors/concurrency/concurrencymetrics": {"interceptors/concurrency", "internal/series"},
	"interceptors/ratelimit/ratelimitmetrics":     {"interceptors/ratelimit", "internal/series"},
	"interceptors/retry/retrymetrics":             {"interceptors/retry", "internal/series"},
	"interceptors/mirror/mirrormetrics":           {"interceptors/mirror", "internal/series"},
}

// homes says which rooms may import a third party, outside of tests. What is not
// listed may be imported anywhere.
var homes = map[string][]string{
	"github.com/hashicorp/consul/api":                 {"resolver/consul"},
	"github.com/hashicorp/consul/proto-public":        {"identity/consulca"},
	"github.com/spiffe/go-spiffe/v2":                  {"identity/spire"},
	"github.com/maypok86/otter/v2":                    {"interceptors/cache", "gateway/httpcache"},
	"go.opentelemetry.io/otel":                        {"interceptors/tracing", "interceptors/tracing/env"},
	"go.opentelemetry.io/otel/sdk":                    {"interceptors/tracing/env"},
	"go.opentelemetry.io/contrib":                     {"interceptors/tracing/env"},
	"github.com/prometheus/client_golang":             {"interceptors/metrics", "identity/identitymetrics", "interceptors/authz/authzmetrics", "interceptors/cache/cachemetrics", "interceptors/concurrency/concurrencymetrics", "interceptors/ratelimit/ratelimitmetrics", "interceptors/retry/retrymetrics", "interceptors/mirror/mirrormetrics", "resolver/resolvermetrics", "balancer/balancermetrics", "balancer/routes/routesmetrics", "internal/series", "internal/series/seriestest", "admin", "gateway", "gateway/edge", ""},
	"github.com/redis/rueidis":                        {"internal/redisconn", "internal/redistest", "interceptors/cache/redis", "interceptors/ratelimit/redis"},
	"github.com/prometheus/common":                    {"internal/scrape"},
	"golang.org/x/time":                               {"resolver/consul"},
	"github.com/spf13/cobra":                          {"cmd/...", "internal/..."},
	"github.com/bufbuild/protocompile":                {"internal/reflectcall", "internal/prototest"},
	"github.com/jhump/protoreflect/v2":                {"gateway/contract"},
	"github.com/grpc-ecosystem/grpc-gateway/v2":       {"gateway/transcode"},
	"github.com/coder/websocket":                      {"gateway/transcode"},
	"google.golang.org/grpc/balancer":                 {"balancer", "balancer/...", "internal/..."},
	"google.golang.org/grpc/experimental":             {"balancer", "internal/..."},
	"google.golang.org/grpc/xds":                      {},
	"github.com/grpc-ecosystem/go-grpc-middleware/v2": {"interceptors/..."},
	"github.com/rs/cors":                              {"gateway/edge"},
	"github.com/klauspost/compress":                   {"gateway/edge"},
	"github.com/golang-jwt/jwt":                       {"gateway/jwt"},
	"github.com/MicahParks/jwkset":                    {"gateway/jwt"},
}

type pkg struct {
	ImportPath, Dir, Name string
	Imports               []string
	GoFiles, TestGoFiles  []string
	XTestGoFiles          []string
	Deps                  []string
}

// room is the package's path below the module.
func (p pkg) room() string { return roomOf(p.ImportPath) }

func roomOf(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

// packages are those of the module. The list of the go command serves all tests: it is seconds.
func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := listed()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(all)
}

var listed = sync.OnceValues(func() (all []pkg, _ error) {
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Dir,Name,Imports,GoFiles,TestGoFiles,XTestGoFiles,Deps", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, p)
	}
})

func matches(pattern, room string) bool {
	prefix, all := strings.CutSuffix(pattern, "...")
	return pattern == room || all && strings.HasPrefix(room, prefix)
}

// allowed finds the row of room: its own, else the longest pattern.
func allowed(room string) (imports []string, found bool) {
	best := -1
	for pattern, row := range rooms {
		if pattern == room {
			return row, true
		}
		if matches(pattern, room) && len(pattern) > best {
			imports, found, best = row, true, len(pattern)
		}
	}
	return imports, found
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	racetest.Skip(t)
	for _, p := range packages(t) {
		row, found := allowed(p.room())
		if !found {
			t.Errorf("%s has no row in the table of rooms", p.room())
		}
		for _, i := range p.Imports {
			if i != module && !strings.HasPrefix(i, module+"/") {
				continue
			}
			if !slices.ContainsFunc(row, func(pattern string) bool { return matches(pattern, roomOf(i)) }) {
				t.Errorf("room %q imports %q, which it may not", p.room(), roomOf(i))
			}
		}
	}
}

func TestEachThirdPartyHasItsHome(t *testing.T) {
	racetest.Skip(t)
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			for party, at := range homes {
				if i != party && !strings.HasPrefix(i, party+"/") {
					continue
				}
				if !slices.ContainsFunc(at, func(pattern string) bool { return matches(pattern, p.room()) }) {
					t.Errorf("room %q imports %s, whose home is %v", p.room(), i, at)
				}
			}
		}
	}
}

// A user who imports one part compiles nothing of the others.
func TestPartsDoNotDragOthersIn(t *testing.T) {
	racetest.Skip(t)
	foreign := map[string][]string{
		"interceptors/ratelimit": {"consul/api", "otter", "client_golang", "rueidis"},
		"interceptors/cache":     {"consul/api", "client_golang", "rueidis"},
		"interceptors/retry":     {"consul/api", "client_golang", "otter"},
		"interceptors/metrics":   {"opentelemetry.io", "consul/api", "otter"},
		"interceptors/tracing":   {"opentelemetry.io/otel/sdk", "opentelemetry.io/otel/exporters", "opentelemetry.io/contrib", "consul/api", "client_golang", "otter"},
		"resolver":               {"consul/api", "client_golang", "otter"},
		"resolver/consul":        {"client_golang", "otter"},
		"balancer/leastrequest":  {"consul/api", "client_golang", "otter", "grpc/xds"},
		"identity":               {"consul", "spiffe", "client_golang"},
		"identity/consulca":      {"consul/api", "spiffe", "client_golang"},
		"":                       {"redis", "go-spiffe", "consul/proto-public", "opentelemetry.io", "grpc/xds", "spf13/cobra", "resolver/consultest"},

		"interceptors/mirror":      {"consul/api", "otter", "client_golang"},
		"interceptors/concurrency": {"consul/api", "otter", "client_golang"},
	}
	for _, p := range packages(t) {
		for _, party := range foreign[p.room()] {
			if i := slices.IndexFunc(p.Deps, func(dep string) bool { return strings.Contains(dep, party) }); i >= 0 {
				t.Errorf("room %q compiles %s", p.room(), p.Deps[i])
			}
		}
	}
}

// public reports whether users import the package.
func public(p pkg) bool {
	return p.Name != "main" && !strings.HasPrefix(p.room(), "internal/") && !strings.HasPrefix(p.room(), "proto/")
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	racetest.Skip(t)
	for _, p := range packages(t) {
		if strings.HasPrefix(p.room(), "proto/") {
			continue
		}
		files := p.GoFiles
		if len(files) == 0 {
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		if !slices.ContainsFunc(files, func(name string) bool {
			file := parse(t, filepath.Join(p.Dir, name))
			return file.Doc != nil && len(file.Doc.Text()) > 80
		}) {
			t.Errorf("room %q has no package comment of more than 80 letters", p.room())
		}
	}
}

func TestEveryPublicPackageHasAnExample(t *testing.T) {
	racetest.Skip(t)
	for _, p := range packages(t) {
		if !public(p) {
			continue
		}
		if !slices.ContainsFunc(slices.Concat(p.TestGoFiles, p.XTestGoFiles), func(name string) bool {
			return slices.ContainsFunc(parse(t, filepath.Join(p.Dir, name)).Decls, isExample)
		}) {
			t.Errorf("room %q has no Example", p.room())
		}
	}
}

func isExample(d ast.Decl) bool {
	f, ok := d.(*ast.FuncDecl)
	return ok && strings.HasPrefix(f.Name.Name, "Example")
}

func TestEveryExportIsDocumented(t *testing.T) {
	racetest.Skip(t)
	for _, p := range packages(t) {
		if strings.HasPrefix(p.room(), "proto/") {
			continue
		}
		for _, name := range p.GoFiles {
			for _, d := range parse(t, filepath.Join(p.Dir, name)).Decls {
				for _, undocumented := range undocumented(d) {
					t.Errorf("%s/%s: %s has no comment", p.room(), name, undocumented)
				}
			}
		}
	}
}

func undocumented(d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && (d.Recv == nil || token.IsExported(receiver(d.Recv))) {
			return []string{d.Name.Name}
		}
	case *ast.GenDecl:
		if d.Doc != nil || d.Tok == token.IMPORT {
			return nil
		}
		var names []string
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Doc == nil && s.Name.IsExported() {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				if s.Doc == nil && s.Comment == nil && s.Names[0].IsExported() {
					names = append(names, s.Names[0].Name)
				}
			}
		}
		return names
	}
	return nil
}

// The front door stays small. Whoever adds an option says in its commit which one it
// replaces, or why no other way serves: a field of an option's value, an option of the
// part that is configured, gRPC's own option.
func TestTheFrontDoorHasFewOptions(t *testing.T) {
	racetest.Skip(t)
	const most = 26
	var options []string
	for _, p := range packages(t) {
		if p.room() != "" {
			continue
		}
		for _, name := range p.GoFiles {
			for _, d := range parse(t, filepath.Join(p.Dir, name)).Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "With") {
					options = append(options, f.Name.Name)
				}
			}
		}
	}
	if n := len(options); n == 0 || n > most {
		t.Errorf("the root has %d options, want at most %d: %v", n, most, options)
	}
}

func TestNoFileMakesYouScrollForItsPoint(t *testing.T) {
	racetest.Skip(t)
	const most = 700
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(text, []byte("\n")); n > most && !strings.HasSuffix(name, ".pb.go") {
				t.Errorf("%s/%s has %d lines, want at most %d", p.room(), name, n, most)
			}
		}
	}
}

// `make test` finds what the race detector leaves out by the line before racetest.Skip.
func TestWhatTheRaceDetectorLeavesOutIsFound(t *testing.T) {
	racetest.Skip(t)
	found := 0
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			before := ""
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(strings.TrimSpace(line), "racetest.Skip(") {
					found++
					if !strings.HasPrefix(before, "func Test") {
						t.Errorf("%s/%s calls racetest.Skip after %q: write it as the first line of a test", p.room(), name, strings.TrimSpace(before))
					}
				}
				before = line
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d tests call racetest.Skip", found)
	}
}

// A goroutine that nobody ends shows where the tests of its package end.
func TestEveryPackageWithTestsLooksForLeaks(t *testing.T) {
	racetest.Skip(t)
	for _, p := range packages(t) {
		tests := slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		if len(tests) == 0 || strings.HasPrefix(p.room(), "internal/house") {
			continue
		}
		if !slices.ContainsFunc(tests, func(name string) bool {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			return err == nil && bytes.Contains(text, []byte("goleak."))
		}) {
			t.Errorf("room %q has tests and no leak check", p.room())
		}
	}
}

// A reader looks for these first.
func TestFilesBesideTheCode(t *testing.T) {
	for _, name := range []string{"README.md", "TESTING.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "buf.yaml", "buf.gen.yaml", ".ci/run", "deploy/consul/go.mod"} {
		if _, err := os.Stat(filepath.Join("..", "..", name)); err != nil {
			t.Errorf("missing at the top: %v", err)
		}
	}
}

// fileSet has the positions of all files that were parsed, and trees what they are, by path:
// most tests read most files.
var (
	fileSet = token.NewFileSet()
	trees   = map[string]*ast.File{}
)

// parse returns the tree of a file, with comments. It is not to be changed.
func parse(t *testing.T, path string) *ast.File {
	t.Helper()
	if tree, ok := trees[path]; ok {
		return tree
	}
	tree, err := parser.ParseFile(fileSet, path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	trees[path] = tree
	return tree
}
