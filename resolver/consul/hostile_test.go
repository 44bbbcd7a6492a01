package consul_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// roundTrip is a transport.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering is a directory whose agent answers every request alike.
func answering(t testing.TB, config consul.Config, status int, body func() io.Reader) *consul.Directory {
	t.Helper()
	config.Address = "127.0.0.1:8500"
	if config.Logger == nil {
		config.Logger = silent
	}
	config.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		header := http.Header{"X-Consul-Index": {"7"}}
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(body()), Request: r}, r.Context().Err()
	})
	d, err := consul.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func always(body string) func() io.Reader {
	return func() io.Reader { return strings.NewReader(body) }
}

// readers are all that read an answer, by name.
var readers = map[string]func(context.Context, *consul.Directory) error{
	"Watch": func(ctx context.Context, d *consul.Directory) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var first error
		d.Watch(ctx, catalog.Query{Service: "catalog"}, func(_ catalog.Snapshot, err error) { first = err; cancel() })
		return first
	},
	"Entries": func(ctx context.Context, d *consul.Directory) error {
		_, err := d.Entries(ctx, catalog.Query{Service: "catalog"})
		return err
	},
	"Services": func(ctx context.Context, d *consul.Directory) error {
		_, err := d.Services(ctx, "")
		return err
	},
	"Names": func(ctx context.Context, d *consul.Directory) error {
		_, err := d.ServiceNames(ctx, "")
		return err
	},
	"Agent": func(ctx context.Context, d *consul.Directory) error {
		_, err := d.Agent(ctx)
		return err
	},
	"NodeAddress": func(ctx context.Context, d *consul.Directory) error {
		_, err := d.NodeAddress(ctx)
		return err
	},
	"Chain": func(ctx context.Context, d *consul.Directory) error {
		_, err := d.Chain(ctx, "catalog", "")
		return err
	},
	"CheckToken": func(ctx context.Context, d *consul.Directory) error { return d.CheckToken(ctx) },
	"Register": func(ctx context.Context, d *consul.Directory) error {
		lease, err := d.Register(ctx, instance("catalog-1", "10.0.0.1:80"))
		if err != nil {
			return err
		}
		return lease.Deregister(ctx)
	},
}

// nulls are answers of Consul with something missing, null or of another type.
var nulls = []string{
	``, `null`, `[]`, `{}`, `[null]`, `"text"`, `7`, `true`, `[`, `[{}`, `[{"Service":`, `{"a":[null],"b":null,"c":7}`, `[[[[`,
	`[{}]`, `[{"Node":null,"Service":null,"Checks":null}]`, `[{"Service":{}}]`,
	`[{"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"a","Service":"catalog","Address":"127.0.0.1","Port":9},"Checks":[null]}]`,
	`[{"Service":{"ID":"a","Service":"catalog","Address":"127.0.0.1","Port":9,"Tags":[null],"Meta":{"zone":null},"Weights":null,"Locality":null},"Checks":[{"Status":null},null,{}]}]`,
	`[{"Service":{"ID":"a","Address":"127.0.0.1","Port":99999999,"Weights":{"Passing":-5,"Warning":4294967296}}}]`,
	`[{"Service":{"ID":7}}]`, `[{"Service":[]}]`, `[{"Checks":{}}]`, `[{"Service":{"Port":"80"}}]`, `[{"Service":{"Tags":"a"}}]`,
	`{"AggregatedStatus":null,"Service":null,"Checks":[null]}`,
	`{"Service":{"ID":"catalog-1","Weights":null,"Locality":null,"Tags":[null],"Meta":null},"Checks":[null,{"CheckID":"service:catalog-1","Definition":null}]}`,
	`{"Chain":null}`, `{"Chain":[]}`, `{"Chain":{"ServiceName":"catalog","Datacenter":"dc1","Nodes":null,"Targets":null,"StartNode":"a"}}`,
	`{"Chain":{"ServiceName":"catalog","Datacenter":"dc1","StartNode":"a","Nodes":{"a":{"Type":"router","Routes":[null,{"Definition":{"Match":{"HTTP":{"Header":[null],"QueryParam":[null]}},"Destination":null}}]}}}}`,
	`{"Chain":{"ServiceName":"catalog","Datacenter":"dc1","StartNode":"a","Nodes":{"a":{"Type":"splitter","Splits":[null,{"Definition":null,"Weight":1e300,"NextNode":"a"}]}},"Targets":{"a":null}}}`,
	`{"Chain":{"ServiceName":"catalog","Datacenter":"dc1","StartNode":"a","Nodes":{"a":{"Type":"resolver","Resolver":{"Target":"t","RequestTimeout":-9223372036854775808,"Failover":{"Targets":["t","u"]}},"LoadBalancer":{"HashPolicies":[null]}}},"Targets":{"t":{"ID":"u"},"u":null}}}`,
	`{"Config":null,"DebugConfig":null,"Member":null}`, `{"Member":{"Addr":7}}`,
}

// R26: a null, a wrong type or a missing field anywhere in Consul's JSON panics nothing,
// with each status that an agent answers by.
//
// Case R26: A null, a wrong type or a missing field in Consul's JSON panics nothing; a body
// past its bound is an error that names the bound.
func FuzzAnswers(f *testing.F) {
	for _, body := range nulls {
		for _, status := range []int{200, 503} {
			f.Add(status, body)
		}
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 || len(body) > 64<<10 {
			return
		}
		d := answering(t, consul.Config{}, status, always(body))
		for _, read := range readers {
			_ = read(t.Context(), d)
		}
	})
}

// R26: what is null beside good entries takes nothing from them.
//
// Case R26
func TestNullsAreLeftOut(t *testing.T) {
	d := answering(t, consul.Config{}, 200, always(`[null,
		{"Service":null},
		{"Node":null,"Service":{"ID":"a","Service":"catalog","Address":"10.0.0.1","Port":80,"Weights":{"Passing":1}},"Checks":[null,{"Name":"ours","Status":"passing"}]},
		{"Service":{"ID":"b","Service":"catalog","Address":"10.0.0.2","Port":70000,"Weights":{"Passing":1}}},
		{"Service":{"ID":"c","Service":"catalog","Address":"10.0.0.3","Port":80,"Weights":{"Passing":4294967297}},"Checks":null},
		{"Service":{"ID":"d","Service":"catalog","Address":"10.0.0.4","Port":80,"Weights":null},"Checks":[]}]`))
	r := watch(d, catalog.Query{Service: "catalog"})
	defer r.stop()
	s := r.await(t, "10.0.0.1:80", "10.0.0.3:80", "10.0.0.4:80")
	if s.Instances[0].Weight != 1 || s.Instances[1].Weight != 65535 || s.Instances[2].Weight != 1 {
		t.Errorf("%+v, want the weights within what Consul takes", s.Instances)
	}
	entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
	if err != nil || len(entries) != 4 || len(entries[0].Checks)+len(entries[1].Checks)+len(entries[2].Checks)+len(entries[3].Checks) != 1 {
		t.Errorf("%+v, %v, want four entries with one check", entries, err)
	}
}

// endless repeats a text after a beginning.
type endless struct {
	begin, again string
	at           int // in again
	sent         int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.begin)
	e.begin = e.begin[n:]
	for n < len(p) {
		c := copy(p[n:], e.again[e.at:])
		n, e.at = n+c, (e.at+c)%len(e.again)
	}
	e.sent += int64(n)
	return n, nil
}

// R26: a body past its bound is an error that names the bound, whoever reads it, and
// what was read for it is bounded, too.
//
// Case R26
func TestEndlessAnswersEndAtTheirBound(t *testing.T) {
	racetest.Skip(t)
	const most = 256 << 10
	for name, read := range readers {
		for _, begin := range []string{`[`, `{"`, `"`, ``} {
			for _, status := range []int{200, 403, 429} {
				sent := []*endless{}
				d := answering(t, consul.Config{MaxBodyBytes: most}, status, func() io.Reader {
					sent = append(sent, &endless{begin: begin, again: ` `})
					return sent[len(sent)-1]
				})
				err := read(t.Context(), d)
				named := strings.Contains(fmt.Sprint(err), "more than 262144 bytes") || strings.Contains(fmt.Sprint(err), `want "`)
				if status == 200 && name != "Register" && !named {
					t.Errorf("%s of %q: %v, want an error that names the bound, or the kind that it is not", name, begin, err)
				}
				for _, s := range sent {
					if s.sent > most+64<<10 {
						t.Errorf("%s of %q, status %d: %d bytes were read", name, begin, status, s.sent)
					}
				}
			}
		}
	}
}

// R26: gzip is counted inflated.
//
// Case R26
func TestInflatedAnswersAreBounded(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := io.Copy(z, io.LimitReader(&endless{begin: "[", again: "null,"}, 8<<20)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	}))
	defer agent.Close()
	d, err := consul.New(consul.Config{Address: agent.Listener.Addr().String(), MaxBodyBytes: 1 << 20, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{"Watch", "Entries"} {
		if err := readers[name](t.Context(), d); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
			t.Errorf("%s: %v, of %d bytes that inflate to 8 MiB", name, err, bomb.Len())
		}
	}
}

// R26: the smallest items that there are take no more memory than the bound, with what
// encoding/json needs, and one item that is too large is an error.
//
// Case R26
func TestAnswersTakeBoundedMemory(t *testing.T) {
	racetest.Skip(t)
	const most = 4 << 20
	for _, item := range []string{`null,`, `{},`, `{"Service":{}},`, `{"Service":{},"Checks":[{},{},{},{}]},`} {
		d := answering(t, consul.Config{MaxBodyBytes: most}, 200, func() io.Reader { return &endless{begin: "[", again: item} })
		highest := watchMemory(func() { _ = readers["Watch"](t.Context(), d) })
		if highest > 3*most {
			t.Errorf("%d MiB are in use for an answer of %s... of at most %d MiB", highest>>20, item, most>>20)
		}
	}
	d := answering(t, consul.Config{}, 200, func() io.Reader { return &endless{begin: `[{"Checks":[`, again: `{},`} })
	if err := readers["Watch"](t.Context(), d); err == nil || !strings.Contains(err.Error(), "an item of its answer has more than 1048576 bytes") {
		t.Errorf("%v, want an error that names the bound of an item", err)
	}
}

// watchMemory returns about how much more was live during f than before it.
func watchMemory(f func()) uint64 {
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	done, highest := make(chan struct{}), make(chan uint64)
	go func() {
		most := before.HeapAlloc
		for {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
			select {
			case <-done:
				highest <- most - before.HeapAlloc
				return
			default:
			}
		}
	}()
	f()
	close(done)
	return <-highest
}

// Instances are capped, with a warning, and all are back when they are fewer.
//
// Case R26
func TestInstancesAreCappedWithAWarning(t *testing.T) {
	list := func(n int) string {
		var all strings.Builder
		for i := range n {
			fmt.Fprintf(&all, `%c{"Service":{"ID":"c%d","Service":"catalog","Address":"10.0.%d.%d","Port":80,"Weights":{"Passing":1}}}`, "[,"[min(i, 1)], i, i>>8, i&255)
		}
		return all.String() + "]"
	}
	var lines bytes.Buffer
	d := answering(t, consul.Config{Logger: slog.New(slog.NewTextHandler(&lines, nil))}, 200, always(list(20_007)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d.Watch(ctx, catalog.Query{Service: "catalog"}, func(s catalog.Snapshot, err error) {
		if err != nil || len(s.Instances) != 20_000 {
			t.Errorf("%d instances, %v, want the cap", len(s.Instances), err)
		}
		cancel()
	})
	if text := lines.String(); !strings.Contains(text, "service=catalog") || !strings.Contains(text, "7 of 20007 instances are left out") {
		t.Errorf("logged %q, want how many of what are left out", text)
	}
}

// X12: no error repeats what proves who we are, when the agent repeats it.
//
// Case X12 (echo): No error repeats user information of an address, or what an agent, a proxy
// or Redis repeats of a secret.
func TestNoErrorEchoesASecret(t *testing.T) {
	const token, password = "5ecre7-t0ken", "pa55-word"
	t.Setenv("CONSUL_HTTP_AUTH", "user:"+password)
	echo := "no access for " + token + " by user:" + password + " at http://user:" + password + "@127.0.0.1/?token=" + token
	for _, status := range []int{200, 400, 401, 403, 404, 429, 500, 503} {
		for name, read := range readers {
			d := answering(t, consul.Config{Token: token}, status, always(echo))
			if err := read(t.Context(), d); err != nil && (strings.Contains(err.Error(), token) || strings.Contains(err.Error(), password)) {
				t.Errorf("%s, %d: %v", name, status, err)
			}
		}
	}
	// Cut in the middle it is a secret still.
	long := strings.Repeat("x", 195) + token
	d := answering(t, consul.Config{Token: token}, 500, always(long))
	if err := readers["Entries"](t.Context(), d); err == nil || strings.Contains(err.Error(), token[:4]) {
		t.Errorf("%v", err)
	}
	// What fails below quotes URLs, such as that of a proxy.
	d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Token: token, Logger: silent, Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, errors.New(`invalid proxy address "http://user:` + password + `/@proxy": no port`)
	})})
	if err != nil {
		t.Fatal(err)
	}
	if err := readers["Entries"](t.Context(), d); err == nil || strings.Contains(err.Error(), password) || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("%v, want the reason without the password", err)
	}
}

// The bound is checked when the directory is made.
//
// Case R26
func TestMaxBodyBytesIsChecked(t *testing.T) {
	for _, bytes := range []int64{-1, 1, 1 << 40} {
		if _, err := consul.New(consul.Config{MaxBodyBytes: bytes}); err == nil || !strings.Contains(err.Error(), "MaxBodyBytes") {
			t.Errorf("%d: %v", bytes, err)
		}
	}
}
