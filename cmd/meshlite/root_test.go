package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func TestCommandLine(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const m = "a.v1.S/M"
	for _, test := range []struct {
		args     string
		code     int
		out, err string
	}{
		{"", 0, "Exit codes:", ""},
		{"--help", 0, "Available Commands:", ""},
		{"help call", 0, "meshlite call TARGET [METHOD]", ""},
		{"help completion bash", 0, "bash", ""},
		{"call --help", 0, "Examples:", ""},
		{"--version", 0, "meshlite version ", ""},
		{"version", 0, "grpc 1.", ""},
		{"completion bash", 0, "__start_meshlite", ""},
		{"completion zsh", 0, "#compdef meshlite", ""},
		{"completion fish", 0, "complete -c meshlite", ""},
		{"completion powershell", 0, "Register-ArgumentCompleter", ""},
		{"__complete version -o ", 0, "text\tfor people\njson\tfor programs\n", ""},
		{"__complete call ", 0, "consul:///\n", ""},
		{"__complete re", 0, "registry\t", ""},

		{"junk", 2, "", `meshlite: "junk" is not a command of meshlite: write cache, call, certs, chaos, check, completion, demo, dev, endpoints, explain, gateway, intentions, limits, mirror, nginx, probe, proto, registry, routes, services, top, version`},
		{"regstry", 2, "", `"regstry" is not a command of meshlite: write registry` + "\n"},
		{"tpo", 2, "", `"tpo" is not a command of meshlite: write top` + "\n"},
		{"endpiont", 2, "", "write endpoints\n"},
		{"ls", 2, "", "write services\n"},
		{"caches stast", 2, "", "write cache\n"},
		{"cache stast", 2, "", `"stast" is not a command of meshlite cache: write stats` + "\n"},
		{"help junk", 2, "", `"junk" is not a command of meshlite`},
		{"completion junk", 2, "", `"junk" is not a command of meshlite completion: write bash, fish, powershell, zsh`},
		{"version now", 2, "", `argument "now" is not expected: see meshlite version --help`},
		{"version -o xml", 2, "", `--output "xml": write text or json`},
		{"-o xml", 2, "", `--output "xml": write text or json`},
		{"version --color", 2, "", `unknown flag: --color: see meshlite version --help`},
		{"call", 2, "", "call takes TARGET and perhaps METHOD, not 0 arguments"},
		{"call a:1 b.c/d e", 2, "", "not 3 arguments"},
		{"call catalog " + m, 2, "", `target "catalog" has no port: write host:port, or consul:///catalog`},
		{"call a:b " + m, 2, "", `target port "b" is not in 1 to 65535`},
		{"call http://a:1 " + m, 2, "", `target scheme "http" is not known: write consul:///service`},
		{"call consul://a:1 " + m, 2, "", `target names no service`},
		{"call consul:///catalog?policy=junk " + m, 2, "", `policy "junk" does not exist: write hash, least_request, peak_ewma, random, round_robin`},
		{"call consul:///catalog?tog=a " + m, 2, "", `target key "tog" is not known: write tag, dc, near, filter, consistency or policy`},
		{"call consul://secret@a:1/catalog " + m, 2, "", "a token does not belong in a target: set CONSUL_HTTP_TOKEN"},
		{"call a:1 a..b/GetSweet", 2, "", `method "a..b/GetSweet": write package.Service/Method, or package.Service to list its methods`},
		{"call a:1 -n 5", 2, "", "-n 5 without METHOD: name the method to call"},
		{"call a:1 -d {\"a\":1}", 2, "", "-d without METHOD"},
		{"call a:1 " + m + " -c 5", 2, "", "-c 5 without -n: say how many calls they make in all, such as -n 500"},
		{"call a:1 " + m + " -n 5 -c 1001", 2, "", "-c 1001: write 1 to 1000"},
		{"call a:1 " + m + " --proto-path x", 2, "", "--proto-path without --proto"},
		{"call a:1 " + m + " --proto /nowhere.proto", 2, "", "--proto: open /nowhere.proto: no such file"},
		{"call a:1 " + m + " --descriptor-set /nowhere.binpb", 2, "", `--descriptor-set "/nowhere.binpb": open /nowhere.binpb: no such file`},
		{"call a:1 " + m + " --descriptor-set " + empty, 2, "", "it is none: write one by `buf build -o FILE.binpb`"},
		{"call a:1 " + m + " --plantext", 2, "", "unknown flag: --plantext: is it --plaintext?"},
		{"__complete call --prot", 0, "--proto\t", ""},
		{"__complete call a:1 --concurrency ", 0, ":4", ""},
		{"__complete call a:1 --proto ", 0, "proto\n:8", ""},
		{"__complete dev --q", 0, "--quiet\t", ""},
		{"call a:1 " + m + " -n 0", 2, "", "-n 0: write 1 to 1000000"},
		{"call a:1 " + m + " -n many", 2, "", `--repeat "many": write a whole number`},
		{"call a:1 " + m + " --timeout 5", 2, "", `--timeout "5": write a duration, such as 5s or 2m`},
		{"call a:1 " + m + " --timeout -5s", 2, "", "--timeout -5s: write a duration above 0"},
		{"call a:1 " + m + " --metadata secret", 2, "", "--metadata: number 1 has no key before a colon: write key:value"},
		{"call a:1 " + m + " --metadata grpc-x:1", 2, "", `--metadata key "grpc-x"`},
		{"call a:1 " + m + " -d @/nowhere.json", 2, "", "-d: open /nowhere.json: no such file"},
		{"call a:1 " + m + " -d @" + empty, 2, "", "the request is empty: write {}"},
		{"call a:1 " + m + " -d -", 2, "", "the request is empty: write {}"},
		{"call a:1 " + m + " --plaintext --cacert x", 2, "", "--plaintext together with --cacert"},
		{"call a:1 " + m + " --cacert /nowhere", 2, "", "--cacert: open /nowhere: no such file"},
		{"call a:1 " + m + " --cacert " + empty, 2, "", "holds no certificate: give a PEM file"},
		{"call a:1 " + m + " --cert x", 2, "", `--cert "x", --key "": one needs the other`},
		{"call a:1 " + m + " --cert /nowhere --key /nowhere", 2, "", "no such file"},
		{"registry --listen here", 2, "", `--listen "here": write host:port, such as 127.0.0.1:8500`},
		{"registry --listen :8500", 2, "", `--listen ":8500" is not loopback: the stand-in requires no token`},
		{"registry --listen 0.0.0.0:8500", 2, "", "write 127.0.0.1:8500"},
		{"registry --listen 127.0.0.1:x", 2, "", "write host:port"},
		{"proto --force", 2, "", "--force without --dir"},
		{"services catalog", 2, "", `argument "catalog" is not expected: see meshlite services --help`},
		{"services --http-addr 127.0.0.1", 2, "", `--http-addr "127.0.0.1": write host:port, such as 127.0.0.1:8500`},
		{"services --http-addr a:b@127.0.0.1", 1, "", "the address of the agent has user information"},
		{"check --timeout 0s", 2, "", "--timeout 0s: write a duration above 0"},
		{"check --cert x", 2, "", `--cert "x", --key "": one needs the other`},
		{"check --cacert /nowhere", 2, "", "--cacert: open /nowhere: no such file"},
		{"endpoints", 2, "", "endpoints takes SERVICE, not 0 arguments"},
		{"endpoints a b", 2, "", "not 2 arguments"},
		{"endpoints a/b", 2, "", `service "a/b": write the name of a service, or consul:///service`},
		{"endpoints dns:///a", 2, "", `target scheme "dns"`},
		{"endpoints consul:///catalog?tog=a", 2, "", `target key "tog" is not known`},
		{"endpoints consul:///catalog --tag a", 2, "", "a target together with flags that say the same"},
		{"endpoints consul://a:1/catalog --http-addr b:1", 2, "", "a target together with flags that say the same"},
		{"endpoints consul://secret@a:1/catalog", 2, "", "a token does not belong in a target"},
		{"endpoints catalog --consistency strong", 2, "", `--consistency "strong": write stale, consistent or cached`},
		{"__complete endpoints catalog --consistency ", 0, "stale\nconsistent\ncached\n", ""},
	} {
		t.Run(test.args, func(t *testing.T) {
			// Fields would drop the empty word that is being completed.
			args := strings.Split(test.args, " ")
			if test.args == "" {
				args = []string{}
			}
			r := runTool(t, args...)
			r.want(t, test.code, test.out, test.err)
			if r.code != 0 && strings.Count(r.err, "\n") != 1 {
				t.Errorf("stderr %q, want one line", r.err)
			}
			if r.code != 0 && r.out != "" {
				t.Errorf("stdout %q, want nothing", r.out)
			}
		})
	}
}

// Secrets that were typed into the wrong place are not repeated.
func TestSecretsStayOut(t *testing.T) {
	for _, args := range [][]string{
		{"call", "consul://secret@a:1/catalog", "a.S/M"},
		{"call", "consul:///catalog?token=secret", "a.S/M"},
		{"call", "a:1", "a.S/M", "-H", "authorization secret"},
		{"call", "a:1", "a.S/M", "-H", "authorization: secret\x00"},
		{"call", "a:1", "a.S/M", "-H", "authorization-bin: secret!"},
	} {
		r := runTool(t, args...)
		r.want(t, 2, "", "")
		if strings.Contains(r.err, "secret") {
			t.Errorf("%q says %s", args, r.err)
		}
	}
}

func TestVersionAsJSON(t *testing.T) {
	r := runTool(t, "version", "-o", "json")
	var b cli.Build
	if err := json.Unmarshal([]byte(r.out), &b); err != nil || b.Version == "" || b.GRPC == "" || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("got %s (%v)", r.out, err)
	}
}

// Every command has a help of its own with an example that names it.
func TestEachCommandHasAnExample(t *testing.T) {
	for _, cmd := range newRootCommand(cli.Streams{}).Commands() {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if !strings.Contains(cmd.Example, "meshlite "+cmd.Name()) {
			t.Errorf("%s has the example %q", cmd.Name(), cmd.Example)
		}
	}
}
