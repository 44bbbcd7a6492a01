package proxies

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/freeport"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

// stock is an inventory, and a form. GetStock, which is retried, returns how many calls of
// Implicit run under the name of the instance; Implicit, which is not, runs until its caller
// goes away.
type stock struct {
	inventoryv1.UnimplementedInventoryServiceServer
	forms.UnimplementedFormsServiceServer
	name    string
	running atomic.Int32
}

func newStock(name string) *grpc.Server {
	server := grpc.NewServer()
	s := &stock{name: name}
	inventoryv1.RegisterInventoryServiceServer(server, s)
	forms.RegisterFormsServiceServer(server, s)
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	return server
}

func (s *stock) GetStock(context.Context, *inventoryv1.GetStockRequest) (*inventoryv1.GetStockResponse, error) {
	return &inventoryv1.GetStockResponse{Grams: map[string]uint32{s.name: uint32(s.running.Load())}}, nil
}

func (s *stock) Implicit(ctx context.Context, _ *forms.Thing) (*forms.Thing, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// counting asks some instance how many calls of Implicit it runs, and returns its name.
func counting(client *http.Client, url string) asker {
	return func(ctx context.Context) (name string, err error) {
		response, err := send(ctx, client, http.MethodGet, url+"/sweetshop.inventory.v1.InventoryService/GetStock", nil)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		var got struct{ Grams map[string]int }
		if err := json.NewDecoder(response.Body).Decode(&got); err != nil || len(got.Grams) != 1 {
			return "", fmt.Errorf("got %v (%w), want one instance", got, err)
		}
		for name = range got.Grams {
		}
		return name, nil
	}
}

// eachRuns waits until the counts of running calls are as wanted at all instances, which are asked
// one by one: the gateway prefers those that run fewer.
func eachRuns(t *testing.T, instances []*backend, what string, wanted func(counts map[string]int) bool) map[string]int {
	t.Helper()
	clients := map[string]inventoryv1.InventoryServiceClient{}
	for _, b := range instances {
		clients[b.name] = inventoryv1.NewInventoryServiceClient(dial(t, b.address, insecure.NewCredentials()))
	}
	counts := map[string]int{}
	within(t, what, func() bool {
		for name, client := range clients {
			got, err := client.GetStock(t.Context(), &inventoryv1.GetStockRequest{}, grpc.WaitForReady(true))
			if err != nil {
				t.Fatal(err)
			}
			counts[name] = int(got.GetGrams()[name])
		}
		return wanted(counts)
	})
	return counts
}

// sumOf is wanted when all instances together run n calls, and each some unless n is 0.
func sumOf(n int) func(map[string]int) bool {
	return func(counts map[string]int) bool {
		sum, each := 0, true
		for _, count := range counts {
			sum, each = sum+count, each && count > 0
		}
		return sum == n && (each || n == 0)
	}
}

// hold calls Implicit and returns the answer, whatever it is.
func hold(ctx context.Context, client *http.Client, url string) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/forms.v1.FormsService/Implicit", strings.NewReader("{}"))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Grpc-Timeout", "5M")
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

// startInventory runs a gateway over n instances, and returns its URL.
func startInventory(t *testing.T, n int) (url string, instances []*backend) {
	t.Helper()
	agent := agenttest.Start(t)
	instances = startBackends(t, agent, kindStock, "inventory", n)
	gateway := &backend{name: "gateway", address: freeport.For(t), kind: kindCommand, args: []string{
		"--plaintext", "inventory", "--http-addr", agent.Address, "--metrics-address", "",
	}}
	gateway.start(t)
	t.Cleanup(gateway.kill)
	url = "http://" + gateway.address
	within(t, "the gateway is ready", func() bool {
		response, err := send(t.Context(), http.DefaultClient, http.MethodGet, url+"/readyz", nil)
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	})
	http.DefaultClient.CloseIdleConnections()
	allAnswer(t, counting(httpClient(t, nil), url), instances)
	return url, instances
}

// An instance is killed while it runs calls: those that are idempotent go on elsewhere, and the
// others get an error of the gateway, which is made once.
func TestAnInstanceThatVanishesFailsNoGET(t *testing.T) {
	url, instances := startInventory(t, 3)
	client := httpClient(t, nil)
	ctx, goAway := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	defer ended.Wait()
	defer goAway()
	type result struct {
		status int
		kind   string
		code   string
	}
	results := make(chan result, 30)
	for range cap(results) {
		ended.Go(func() {
			response, body, err := hold(ctx, client, url)
			if err != nil {
				return // it went away, at the end of the test
			}
			var problem struct{ Code string }
			_ = json.Unmarshal(body, &problem)
			results <- result{response.StatusCode, response.Header.Get("Content-Type"), problem.Code}
		})
	}
	counts := eachRuns(t, instances, "all calls run", sumOf(cap(results)))
	gets, stop := load(t, counting(client, url))
	killed, left := instances[0], instances[1:] // the one that the gateway prefers now
	for i, b := range instances {
		if counts[b.name] < counts[killed.name] {
			killed, left = b, slices.Concat(instances[:i], instances[i+1:])
		}
	}
	within(t, "GETs of the instance", func() bool { return gets.answeredBy(killed.name) > 50 })
	killed.kill()
	for range counts[killed.name] {
		got := <-results
		if (got.status != http.StatusBadGateway && got.status != http.StatusServiceUnavailable) || got.kind != "application/problem+json" || got.code != "UNAVAILABLE" {
			t.Errorf("a call of the killed instance was answered with %+v, want a problem of 502 or 503", got)
		}
	}
	answered, _, _ := gets.all()
	within(t, "GETs without the instance", func() bool { n, _, _ := gets.all(); return n > answered+500 })
	stop()
	if answers, failures, err := gets.all(); failures > 0 {
		t.Errorf("of %d GETs %d failed, the first with: %v", answers+failures, failures, err)
	}
	delete(counts, killed.name)
	eachRuns(t, left, "the other instances answer", func(now map[string]int) bool {
		if !maps.Equal(now, counts) {
			t.Errorf("%v calls run, before the kill %v: a call was made again", now, counts)
		}
		return true
	})
	if len(results) > 0 {
		t.Errorf("a call of another instance was answered with %+v", <-results)
	}
}

// Through a whole gateway, by HTTP/2: the contexts of the backends end.
//
// Case E9
func TestResetStreamsLeaveNothingRunning(t *testing.T) {
	url, instances := startInventory(t, 2)
	another := counting(httpClient(t, nil), url)
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	resets := &http.Client{Transport: transport}
	ctx, reset := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	for range 40 {
		ended.Go(func() {
			if response, _, err := hold(ctx, resets, url); err == nil {
				t.Errorf("a call that was reset was answered with %s", response.Status)
			}
		})
	}
	eachRuns(t, instances, "all calls run", sumOf(40))
	reset()
	ended.Wait()
	eachRuns(t, instances, "no call runs", sumOf(0))
	// Reset before, while and after they reach an instance, as a client in a hurry does.
	for range 200 {
		ctx, reset := context.WithCancel(t.Context())
		ended.Go(func() { _, _, _ = hold(ctx, resets, url) })
		_, _ = another(t.Context())
		reset()
	}
	ended.Wait()
	eachRuns(t, instances, "no call runs", sumOf(0))
}
