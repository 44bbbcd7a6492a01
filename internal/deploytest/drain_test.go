package deploytest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

var units = map[string]time.Duration{"Second": time.Second, "Millisecond": time.Millisecond, "Minute": time.Minute}

// duration evaluates time.Second and 10 * time.Second.
func duration(e ast.Expr) (time.Duration, bool) {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		unit, ok := units[e.Sel.Name]
		return unit, ok
	case *ast.BinaryExpr:
		count, isLiteral := e.X.(*ast.BasicLit)
		unit, ok := duration(e.Y)
		if !isLiteral || !ok || e.Op != token.MUL {
			return 0, false
		}
		n, err := strconv.Atoi(count.Value)
		return time.Duration(n) * unit, err == nil
	}
	return 0, false
}

// constants are the durations among the constants of a file.
func constants(t *testing.T, path string) map[string]time.Duration {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), path), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]time.Duration{}
	for _, declaration := range file.Decls {
		group, ok := declaration.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			value := spec.(*ast.ValueSpec)
			for i, name := range value.Names {
				if i < len(value.Values) {
					if d, ok := duration(value.Values[i]); ok {
						all[name.Name] = d
					}
				}
			}
		}
	}
	return all
}

// longestStop is how long a server takes to stop at most, by the defaults of package meshlite:
// out of Consul, the drain, the calls, those cut off, and three closings.
func longestStop(t *testing.T) time.Duration {
	t.Helper()
	stop, server := constants(t, "stop.go"), constants(t, "server.go")
	sum := stop["deregisterTime"] + stop["closeTime"] + server["defaultDrain"] + server["defaultStopTimeout"] + stop["cutOffTime"] + 3*stop["closeTime"]
	for name, d := range map[string]time.Duration{
		"deregisterTime": stop["deregisterTime"], "closeTime": stop["closeTime"], "cutOffTime": stop["cutOffTime"],
		"defaultDrain": server["defaultDrain"], "defaultStopTimeout": server["defaultStopTimeout"],
	} {
		if d <= 0 {
			t.Fatalf("constant %s is not found: the sum of a stop is wrong without it", name)
		}
	}
	return sum
}

// The READMEs of deploy/ give 20 s, and 9 s beside the times of WithDrain.
func TestWhatTheReadmesSayOfAStop(t *testing.T) {
	longest, server := longestStop(t), constants(t, "server.go")
	if longest > 20*time.Second {
		t.Errorf("a stop takes %v at most: the READMEs say 20 s", longest)
	}
	if beside := longest - server["defaultDrain"] - server["defaultStopTimeout"]; beside > 9*time.Second {
		t.Errorf("a stop takes %v beside the times of WithDrain: the READMEs say 9 s", beside)
	}
}

// A gateway stops within the time of a server: by its flags, and the time to leave Consul.
func TestGatewaysStopAsServersDo(t *testing.T) {
	help, _ := exec.Command(filepath.Join(binaries, "gateway"), "-h").CombinedOutput()
	sum := constants(t, "internal/gatewaycmd/register.go")["leaveTimeout"]
	if sum <= 0 {
		t.Fatal("leaveTimeout is not found")
	}
	for _, flag := range []string{"drain", "stop-timeout"} {
		match := regexp.MustCompile(`--` + flag + ` duration .*\(default (\w+)\)`).FindSubmatch(help)
		if match == nil {
			t.Fatalf("gateway has no default of --%s: %s", flag, help)
		}
		d, err := time.ParseDuration(string(match[1]))
		if err != nil {
			t.Fatal(err)
		}
		sum += d
	}
	if longest := longestStop(t); sum > longest {
		t.Errorf("a gateway stops within %v, a server within %v", sum, longest)
	}
}

// checkGrace fails unless who stops a program waits until it has ended by itself.
func checkGrace(t *testing.T, where string, before, grace time.Duration) {
	t.Helper()
	if longest := longestStop(t); grace < before+longest {
		t.Errorf("%s: the program is killed after %v, of which %v are over when it is asked to stop: it takes up to %v", where, grace, before, longest)
	}
}

// `make chaos` stops instances with the times of the files, and a tenth of those that only pass.
func TestChaosHasTheTimesOfTheFiles(t *testing.T) {
	chaos := constants(t, "internal/chaos/orchestrators.go")
	for name, want := range map[string]time.Duration{
		"preStop": kubernetesTimes(t).preStop / 10, "minReady": kubernetesTimes(t).minReady / 10,
		"shutdownDelay": nomadTimes(t).shutdownDelay / 10, "killTimeout": nomadTimes(t).killTimeout,
	} {
		if chaos[name] != want || want <= 0 {
			t.Errorf("%s is %v, and %v by the files", name, chaos[name], want)
		}
	}
	if got := chaos["timeoutStop"].Seconds(); strconv.Itoa(int(got)) != settings(t, "deploy/systemd/meshlite@.service")["TimeoutStopSec"] {
		t.Errorf("timeoutStop is %v s, and another by the unit", got)
	}
}
