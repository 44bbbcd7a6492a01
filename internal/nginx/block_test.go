package nginx

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

func instances(addresses ...string) (list []catalog.Instance) {
	for i, address := range addresses {
		list = append(list, catalog.Instance{ID: "c", Address: address, Weight: uint32(i + 1)})
	}
	return list
}

func TestRendersAnUpstreamOrItsServers(t *testing.T) {
	const head = "# Written by `meshlite nginx` and overwritten: service \"catalog\" of consul at 127.0.0.1:8500.\n"
	for name, test := range map[string]struct {
		block Block
		list  []catalog.Instance
		want  string
	}{
		"servers alone": {Block{}, instances("10.0.0.1:80", "[::1]:81", "shop-2.local:82"),
			"server 10.0.0.1:80;\nserver [::1]:81 weight=2;\nserver shop-2.local:82 weight=3;\n"},
		"an upstream": {Block{Upstream: "catalog", Balance: LeastConn, Keepalive: 8, Server: "max_fails=1 fail_timeout=5s"}, instances("10.0.0.1:80"),
			"upstream catalog {\n    zone catalog 512k;\n    least_conn;\n    server 10.0.0.1:80 max_fails=1 fail_timeout=5s;\n    keepalive 8;\n}\n"},
		"round robin": {Block{Upstream: "catalog", Balance: RoundRobin}, instances("10.0.0.1:80"),
			"upstream catalog {\n    zone catalog 512k;\n    server 10.0.0.1:80;\n}\n"},
		"no instance": {Block{}, nil, "server 127.0.0.1:1 down; # no instance is known\n"},
	} {
		test.block.Service, test.block.Directory = "catalog", "consul at 127.0.0.1:8500"
		if got, refused := test.block.Render(test.list); got != head+test.want || len(refused) > 0 {
			t.Errorf("%s: got %q (%v), want %q", name, got, refused, head+test.want)
		}
	}
}

// Whoever may register an instance must not be able to write NGINX's configuration.
func TestAnAddressIsNoConfiguration(t *testing.T) {
	for _, address := range []string{
		"", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:80; } evil {", "10.0.0.1;:80", "a b:80", "a\nb:80", "$host:80",
		"unix:/run/docker.sock", "-a:80", "a-:80", "a..b:80", "[fe80::1%eth0]:80", "\"a\":80", "a#:80", strings.Repeat("a", 300) + ":80",
	} {
		text, refused := Block{}.Render(append(instances("10.0.0.9:80"), catalog.Instance{ID: "bad", Address: address}))
		if len(refused) != 1 || !strings.Contains(refused[0].Error(), `"bad"`) || !strings.HasSuffix(text, "\nserver 10.0.0.9:80;\n") {
			t.Errorf("%q: got %q (%v), want the other instance alone", address, text, refused)
		}
	}
}

func TestTheFlagsOfABlockAreValidated(t *testing.T) {
	for want, block := range map[string]Block{
		`--upstream "a b"`:            {Upstream: "a b"},
		`--upstream "a{"`:             {Upstream: "a{"},
		`--balance "ip_hash": write `: {Upstream: "a", Balance: "ip_hash"},
		"--balance and --keepalive ":  {Balance: LeastConn},
		"--keepalive -1: ":            {Upstream: "a", Keepalive: -1},
		`--server "backup;": write `:  {Server: "backup;"},
		`--server "a=b  c": write `:   {Server: "a=b  c"},
	} {
		if err := block.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", block, err, want)
		}
	}
	for _, block := range []Block{{}, {Upstream: "a.b-c_d", Balance: RoundRobin, Keepalive: 3}, {Server: "backup"}, {Server: "max_fails=1 fail_timeout=5s"}} {
		if err := block.Validate(); err != nil {
			t.Errorf("%+v: %v", block, err)
		}
	}
}

// NGINX accepts all that is rendered.
func TestNGINXAcceptsABlock(t *testing.T) {
	path, err := exec.LookPath("/usr/sbin/nginx")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED, not tested with NGINX: %v", err)
	}
	for name, list := range map[string][]catalog.Instance{"none": nil, "some": instances("10.0.0.1:80", "[::1]:81", "localhost:82")} {
		for _, block := range []Block{
			{Upstream: "catalog", Balance: LeastConn, Keepalive: 8, Server: "max_fails=1 fail_timeout=5s"},
			{Upstream: "catalog"},
			{},
		} {
			dir := t.TempDir()
			text, _ := block.Render(list)
			if block.Upstream == "" {
				text = "upstream catalog {\n" + text + "}\n"
			}
			file := filepath.Join(dir, "nginx.conf")
			config := "pid " + dir + "/pid;\nevents {}\nhttp {\naccess_log off;\n" + text + "server { listen 127.0.0.1:1; location / { proxy_pass http://catalog; } }\n}\n"
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(path, "-t", "-q", "-e", "stderr", "-p", dir, "-c", file).CombinedOutput()
			// Only root may bind a low port, or write where Debian's NGINX keeps bodies.
			if err != nil && !strings.Contains(string(out), "Permission denied") {
				t.Errorf("%s, %+v: %v: %s", name, block, err, out)
			}
		}
	}
}
