package house

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// What users are to write by the README and docs works as it stands: the contract with a
// policy, the buf.gen.yaml, the server and the client, and every other piece of Go.
func TestTheReadmeWorksAsItStands(t *testing.T) {
	racetest.Skip(t)
	top, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(top, ".bin")
	if _, err := os.Stat(filepath.Join(bin, "buf")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED, the README is not tried: no .bin/buf: run `make tools`")
	}
	text, err := os.ReadFile(filepath.Join(top, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(bin, "readme") // always the same: what was compiled there serves the next run
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	put := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	programs := blocks(string(text), "go")
	policy, err := os.ReadFile(filepath.Join(top, "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	put("buf.gen.yaml", blocks(string(policy), "yaml")[0])
	put("proto/meshlite/policy/v1/policy.proto", policyv1.Source)
	put("proto/greet/v1/greet.proto", "syntax = \"proto3\";\npackage greet.v1;\n"+blocks(string(text), "proto")[0]+
		"message GreetRequest { string name = 1; }\nmessage GreetResponse { string text = 1; }\n")
	put("server/main.go", programs[0])
	put("server/greeter.go", "package main\n\nimport greetv1 \"example.com/shop/gen/greet/v1\"\n\ntype greeter struct{ greetv1.UnimplementedGreetServiceServer }\n")
	put("client/main.go", strings.Replace(programs[1], "greet :=", "_ =", 1))
	for i, most := range []int{15, 12} {
		if n := len(regexp.MustCompile(`(?m)^.*\S.*$`).FindAllString(programs[i], -1)); n > most {
			t.Errorf("program %d of the README has %d lines, want at most %d", i+1, n, most)
		}
	}
	// The module's own go.mod and go.sum serve, so that nothing is downloaded.
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		put(name, strings.Replace(string(content), "module "+module, "module example.com/shop", 1))
	}
	for _, command := range [][]string{
		{"buf", "generate"},
		{"go", "mod", "edit", "-require=" + module + "@v0.0.0", "-replace=" + module + "=" + top},
		{"go", "build", "-mod=mod", "-ldflags=-s -w", "-o", t.TempDir(), "./server", "./client"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		if command[0] == "buf" {
			cmd.Path = filepath.Join(bin, "buf")
			cmd.Err = nil
		}
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}
	n := putPieces(t, top, put)
	cmd := exec.Command("go", "build", "-mod=mod", "-gcflags=-e", "./pieces")
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput() // a piece does not use all that it declares
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, ".go:") && !strings.Contains(line, "declared and not used") {
			t.Errorf("docs: %s", line)
		}
	}
	if n < 5 || !bytes.Contains(out, []byte("# example.com/shop/pieces\n")) {
		t.Errorf("only %d pieces of Go in docs, or none was compiled:\n%s", n, out)
	}
}

// packagesOfPieces are those that pieces of Go in docs name without importing them.
var packagesOfPieces = map[string]string{
	"meshlite": module, "cache": module + "/interceptors/cache", "ratelimit": module + "/interceptors/ratelimit",
	"redis": module + "/interceptors/cache/redis", "tracing": module + "/interceptors/tracing", "env": module + "/interceptors/tracing/env",
	"identity": module + "/identity", "consulca": module + "/identity/consulca", "spire": module + "/identity/spire", "credentials": "google.golang.org/grpc/credentials", "tls": "crypto/tls",
	"admin": module + "/admin", "http": "net/http",
	"authz": module + "/interceptors/authz", "intention": module + "/identity/intention",
	"interceptors": module + "/interceptors", "resolver": module + "/resolver", "consul": module + "/resolver/consul",
	"consultest": module + "/resolver/consultest", "caller": module + "/caller", "catalog": module + "/resolver/catalog",
	"grpc": "google.golang.org/grpc", "insecure": "google.golang.org/grpc/credentials/insecure",
	"reflection": "google.golang.org/grpc/reflection", "service": "google.golang.org/grpc/channelz/service",
	"netip": "net/netip", "context": "context", "time": "time", "policyv1": module + "/proto/meshlite/policy/v1", "proto": "google.golang.org/protobuf/proto", "synctest": "testing/synctest", "testing": "testing",
	"os": "os", "metadata": "google.golang.org/grpc/metadata",
	"meshtest": module + "/meshtest", "codes": "google.golang.org/grpc/codes", "catalogv1": module + "/proto/sweetshop/catalog/v1",
}

// putPieces writes each piece of Go in docs as a file of one package, which compiles in a small
// part of the time that one for each would take, and returns how many there are.
func putPieces(t *testing.T, top string, put func(name, content string)) (n int) {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	put("pieces/around.go", "package pieces\n\nimport meshliteroot \""+module+"\"\nimport gocontext \"context\"\nimport gotesting \"testing\"\nimport sweets \""+module+"/proto/sweetshop/catalog/v1\"\n\n"+
		"var t *gotesting.T\nvar impl sweets.CatalogServiceServer\nvar ctx = gocontext.Background()\nvar server *meshliteroot.Server\n")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, piece := range blocks(string(text), "go") {
			var imports strings.Builder
			for name, path := range packagesOfPieces {
				if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(piece) {
					fmt.Fprintf(&imports, "import %s %q\n", name, path)
				}
			}
			if strings.HasPrefix(strings.TrimSpace(piece), "meshlite.With") {
				piece = "_ = " + strings.TrimSpace(piece)
			}
			name := fmt.Sprintf("%s%d", strings.TrimSuffix(filepath.Base(page), ".md"), i)
			put("pieces/"+name+".go", "package pieces\n\n"+imports.String()+"\nfunc _() {\n"+piece+"\n}\n")
			n++
		}
	}
	return n
}

// blocks are the fenced blocks of one language.
func blocks(text, language string) []string {
	var all []string
	for _, match := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		all = append(all, match[1])
	}
	return all
}
