package consultest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ways to reach an agent; whatever holds over one must hold over the other.
func ways() map[string]func(*testing.T, *consultest.Server) *http.Client {
	return map[string]func(*testing.T, *consultest.Server) *http.Client{
		"transport": func(_ *testing.T, s *consultest.Server) *http.Client {
			return &http.Client{Transport: s.Transport()}
		},
		"listener": func(t *testing.T, s *consultest.Server) *http.Client {
			t.Helper()
			addr, err := s.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			inner := &http.Transport{}
			t.Cleanup(inner.CloseIdleConnections)
			return &http.Client{Transport: redirect{addr, inner}}
		},
	}
}

// redirect sends every request to one address.
type redirect struct {
	addr  string
	inner http.RoundTripper
}

func (r redirect) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = r.addr
	return r.inner.RoundTrip(req)
}

// eachWay runs test over the transport and over a listener, on a fresh agent each.
func eachWay(t *testing.T, test func(t *testing.T, s *consultest.Server, c *http.Client), opts ...consultest.Option) {
	t.Helper()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			s := consultest.New(opts...)
			defer s.Close()
			test(t, s, way(t, s))
		})
	}
}

// agentOver makes Consul's own client.
func agentOver(t *testing.T, c *http.Client) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: "consul.test:8500", HttpClient: c})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// newAgent is an agent with Consul's client over its transport.
func newAgent(t *testing.T, opts ...consultest.Option) (*consultest.Server, *api.Client) {
	t.Helper()
	s := consultest.New(opts...)
	t.Cleanup(s.Close)
	return s, agentOver(t, &http.Client{Transport: s.Transport()})
}

type answer struct {
	code   int
	header http.Header
	body   string
}

// do sends one request; headers are "Name: value".
func do(t *testing.T, c *http.Client, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://consul.test:8500"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// health asks for a service and returns "id=status" of its instances.
func health(t *testing.T, client *api.Client, service string, passing bool) (string, *api.QueryMeta) {
	t.Helper()
	entries, meta, err := client.Health().Service(service, "", passing, nil)
	must(t, err)
	return show(entries), meta
}

func show(entries []*api.ServiceEntry) string {
	var of []string
	for _, e := range entries {
		of = append(of, fmt.Sprintf("%s=%s", e.Service.ID, e.Checks.AggregatedStatus()))
	}
	return strings.Join(of, " ")
}

func withFilter(filter string) *api.QueryOptions { return &api.QueryOptions{Filter: filter} }
