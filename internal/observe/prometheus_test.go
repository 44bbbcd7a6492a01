package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
)

// faster is by how much all times are shortened: five minutes take five seconds.
const faster = 60

// server is a running Prometheus.
type server struct {
	t       *testing.T
	address string
	client  *http.Client
}

// startPrometheus runs what is committed, but for the times and where Consul is.
func startPrometheus(t *testing.T, consul string) *server {
	t.Helper()
	path := program(t, "prometheus")
	config := strings.ReplaceAll(files(t, filepath.Join(committed, "prometheus.yml"))["prometheus.yml"], "_interval: 15s", "_interval: 500ms")
	found := strings.Replace(config, "server: 127.0.0.1:8500", "server: "+consul, 1)
	s, output := run(t, path, found)
	if s == nil && strings.Contains(output, "consul_sd_configs not found") {
		t.Logf("%s is built without consul_sd, as Debian's is: what that would find in Consul is told to it by http_sd", path)
		stand := regexp.MustCompile(`(?s)consul_sd_configs:\n      - server: [\d.:]+\n`).ReplaceAllLiteralString(found,
			"http_sd_configs:\n      - url: "+standInForConsulSD(t, consul)+"\n        refresh_interval: 500ms\n")
		s, output = run(t, path, stand)
	}
	if s == nil {
		t.Fatalf("%s did not start:\n%s", path, output)
	}
	return s
}

// run starts Prometheus and waits until it is ready. It is nil when it has ended, with
// what it wrote.
func run(t *testing.T, path, config string) (*server, string) {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "prometheus.yml"), config)
	for name, text := range files(t, filepath.Join(committed, "rules", "*.yml")) {
		put(t, filepath.Join(dir, "rules", name), shorten(t, text))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, address: listener.Addr().String(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	listener.Close()
	tail := &child.Tail{}
	command := exec.Command(path, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+s.address, "--log.level=warn")
	command.Stdout, command.Stderr, command.SysProcAttr = tail, tail, child.OwnGroup()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { _ = command.Process.Kill() })
		defer kill.Stop()
		<-ended
		if t.Failed() {
			t.Logf("prometheus wrote last:\n%s", tail.Last(20))
		}
	})
	for s.get(context.Background(), "/-/ready", nil) != nil {
		select {
		case <-ended:
			return nil, tail.Last(20)
		case <-t.Context().Done():
			return nil, "the test has ended"
		case <-time.After(50 * time.Millisecond):
		}
	}
	return s, ""
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// shorten divides the times of rules: windows, waits, intervals and offsets.
func shorten(t *testing.T, rules string) string {
	t.Helper()
	units := map[string]int{"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
	times := regexp.MustCompile(`(\[|for: |interval: |offset )(\d+)([smhd])\b`)
	return times.ReplaceAllStringFunc(rules, func(text string) string {
		parts := times.FindStringSubmatch(text)
		n, err := strconv.Atoi(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s%dms", parts[1], n*units[parts[3]]/faster)
	})
}

// get reads the data of an answer of the API.
func (s *server) get(ctx context.Context, path string, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+path, nil)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || data == nil && response.StatusCode == http.StatusOK {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		return fmt.Errorf("%s answers %s: %w %s", path, response.Status, err, answer.Error)
	}
	return nil
}

// sample is one of an instant vector.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

// query asks for an instant vector, without what is no number.
func (s *server) query(expr string) []sample {
	s.t.Helper()
	var answer struct{ Result []sample }
	if err := s.get(s.t.Context(), "/api/v1/query?query="+url.QueryEscape(expr), &answer); err != nil {
		s.t.Fatalf("%s: %v", expr, err)
	}
	var numbers []sample
	for _, one := range answer.Result {
		if one.Value[1] != "NaN" {
			numbers = append(numbers, one)
		}
	}
	return numbers
}

// eventually waits until ask finds nothing wrong.
func eventually(t *testing.T, patience time.Duration, ask func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		wrong := ask()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", patience, wrong)
		}
	}
}

// standInForConsulSD serves by http_sd what consul_sd would have found, as labels of the
// names that Prometheus's documentation lists. The answers are those of the real Consul.
func standInForConsulSD(t *testing.T, consul string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	read := func(path string, answer any) error {
		response, err := client.Get("http://" + consul + path)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		return json.NewDecoder(response.Body).Decode(answer)
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	handler := func(w http.ResponseWriter, _ *http.Request) {
		groups, services := []group{}, map[string][]string{}
		err := read("/v1/catalog/services", &services)
		for name := range services {
			var entries []struct {
				Node    struct{ Datacenter, Address string }
				Service struct {
					ID, Service, Address string
					Port                 int
					Meta                 map[string]string
				}
			}
			if err == nil {
				err = read("/v1/health/service/"+name, &entries)
			}
			for _, e := range entries {
				host := e.Service.Address
				if host == "" {
					host = e.Node.Address
				}
				labels := map[string]string{
					"__meta_consul_dc": e.Node.Datacenter, "__meta_consul_service": e.Service.Service, "__meta_consul_service_id": e.Service.ID,
				}
				for key, value := range e.Service.Meta {
					labels["__meta_consul_service_metadata_"+regexp.MustCompile(`\W`).ReplaceAllString(key, "_")] = value
				}
				groups = append(groups, group{[]string{net.JoinHostPort(host, strconv.Itoa(e.Service.Port))}, labels})
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway) // Prometheus keeps what it knew
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(groups)
	}
	stand := &http.Server{Handler: http.HandlerFunc(handler), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = stand.Serve(listener) }()
	t.Cleanup(func() { stand.Close(); <-done })
	return "http://" + listener.Addr().String()
}
