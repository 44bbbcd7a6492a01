package proxies

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/gatewaycmd"
)

// beCommand is the command, until SIGTERM.
func beCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cmd := gatewaycmd.Command()
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	return cmd.ExecuteContext(ctx)
}

// things answers each method with its request, under its own name.
type things struct {
	forms.UnimplementedFormsServiceServer
	name string
}

// newForms is a server with the contract that the tests of transcoding have.
func newForms(name string) *grpc.Server {
	server := grpc.NewServer()
	forms.RegisterFormsServiceServer(server, things{name: name})
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	return server
}

func (s things) answer(in *forms.Thing) (*forms.Thing, error) {
	time.Sleep(work)
	return &forms.Thing{Id: in.GetId(), Name: s.name}, nil
}

func (s things) Implicit(_ context.Context, in *forms.Thing) (*forms.Thing, error) {
	return s.answer(in)
}

func (s things) ImplicitSafe(_ context.Context, in *forms.Thing) (*forms.Thing, error) {
	return s.answer(in)
}

// messages is how many each stream has. With the pauses between them it takes long enough for a
// restart to meet some.
const messages = 20

func (s things) Download(in *forms.Thing, stream grpc.ServerStreamingServer[forms.Thing]) error {
	for i := range messages {
		if err := stream.Send(&forms.Thing{Id: in.GetId(), Int32: int32(i + 1)}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(4 * work):
		}
	}
	return nil
}

// numbers make each request another one.
var numbers atomic.Int64

// transcoded calls a method of forms as JSON: by POST, or by GET for "". It verifies that the
// answer is that of its request.
func transcoded(client *http.Client, method, url string) asker {
	return func(ctx context.Context) (string, error) {
		id := fmt.Sprint("n", numbers.Add(1))
		var body io.Reader
		if method == http.MethodGet {
			url := url + "/forms.v1.FormsService/ImplicitSafe?id=" + id
			return answerOf(ctx, client, method, url, body, id)
		}
		return answerOf(ctx, client, method, url+"/forms.v1.FormsService/Implicit", strings.NewReader(`{"id":"`+id+`"}`), id)
	}
}

func answerOf(ctx context.Context, client *http.Client, method, url string, body io.Reader, id string) (string, error) {
	response, err := send(ctx, client, method, url, body)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var got struct{ ID, Name string }
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil || got.ID != id {
		return "", fmt.Errorf("got %+v (%w), want the answer to %s", got, err, id)
	}
	return got.Name, nil
}

// send makes a request and returns its response if that is 200.
func send(ctx context.Context, client *http.Client, method, url string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return response, nil
}

// streamed reads a stream of NDJSON to its end, all messages in their order.
func streamed(client *http.Client, url string) asker {
	return func(ctx context.Context) (string, error) {
		response, err := send(ctx, client, http.MethodGet, url+"/v1/downloads/x", nil)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		n := 0
		for lines := bufio.NewScanner(response.Body); lines.Scan(); n++ {
			var got struct{ Int32 int }
			if err := json.Unmarshal(lines.Bytes(), &got); err != nil || got.Int32 != n+1 {
				return "", fmt.Errorf("message %d of the stream is %q (%w)", n+1, lines.Text(), err)
			}
		}
		if n != messages {
			return "", fmt.Errorf("the stream ended after %d messages of %d", n, messages)
		}
		return "stream", nil
	}
}

// startCommands runs n gateways of the service forms, and behind each a website of its own by
// whose name it is recognized.
func startCommands(t *testing.T, agent string, n int) []*backend {
	t.Helper()
	var all []*backend
	for i := range n {
		behind := &backend{name: fmt.Sprintf("gateway-%d", i+1), address: freeport.For(t), kind: kindHTTP}
		gateway := &backend{name: behind.name, address: freeport.For(t), kind: kindCommand, args: []string{
			"--plaintext", "forms", "--http", "web=/web/,http://" + behind.address, "--http-addr", agent, "--register", "--metrics-address", "",
		}}
		for _, b := range []*backend{behind, gateway} {
			b.start(t)
			t.Cleanup(b.kill)
		}
		all = append(all, gateway)
	}
	return all
}

// stop asks the process to end, and waits until it has.
func (b *backend) stop(t testing.TB) {
	t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("%s ended with %v, want an orderly stop", b.name, err)
	}
}

// Case E15: Rolling restart of two gateways behind HAProxy under load: 0 failed requests.
func TestNothingFailsWhileGatewaysAreRestartedBehindHAProxy(t *testing.T) {
	f := frontOf(t, "haproxy", "gateway.cfg")
	program(t, f.program)
	agent := agenttest.Start(t)
	services := startBackends(t, agent, kindForms, "forms", 2)
	gateways := startCommands(t, agent.Address, 2)
	client := httpClient(t, nil)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 4 * callers
	url := "http://" + f.start(t, agent, t.TempDir())
	whose, gets := get(client, url+"/web"), transcoded(client, http.MethodGet, url)
	allAnswer(t, whose, gateways)
	allAnswer(t, gets, services)

	web, stopWeb := load(t, whose)
	tallies := map[string]*tally{"GET of a site": web}
	stops := []func(){stopWeb}
	for name, ask := range map[string]asker{"GET": gets, "POST": transcoded(client, http.MethodPost, url), "stream": streamed(client, url)} {
		c, stop := load(t, ask)
		tallies[name], stops = c, append(stops, stop)
	}
	for _, g := range gateways {
		before := web.answeredBy(g.name)
		within(t, g.name+" has load", func() bool { return web.answeredBy(g.name) > before+50 })
		g.stop(t)
		before, _, _ = web.all()
		within(t, "answers without "+g.name, func() bool { n, _, _ := web.all(); return n > before+200 })
		before = web.answeredBy(g.name)
		g.start(t)
		within(t, g.name+" has load again", func() bool { return web.answeredBy(g.name) > before+50 })
	}
	var all sync.WaitGroup
	for _, stop := range stops {
		all.Go(stop)
	}
	all.Wait()
	for name, c := range tallies {
		answers, failures, err := c.all()
		t.Logf("%s: %d answers, %d failures", name, answers, failures)
		if failures > 0 || answers == 0 {
			t.Errorf("%s: of %d, %d failed, the first with: %v", name, answers+failures, failures, err)
		}
	}
}
