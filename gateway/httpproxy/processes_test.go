package httpproxy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/gateway/httpproxy"
	"github.com/meshlite-go/meshlite/internal/child"
)

// four small HTTP servers, each a process, behind a proxy.
func four(t *testing.T, config httpproxy.Config, pauses ...time.Duration) (*httpproxy.Proxy, []*process, string) {
	t.Helper()
	posts := filepath.Join(t.TempDir(), "posts")
	var servers []*process
	var urls []string
	for i := range 4 {
		var pause time.Duration
		if i < len(pauses) {
			pause = pauses[i]
		}
		servers = append(servers, start(t, "127.0.0.1:0", pause, posts))
		urls = append(urls, servers[i].url())
	}
	return newProxy(t, config, urls...), servers, posts
}

// Case E11: Plain HTTP instances: even shares; kill -9 of one of four under load fails 0 GETs;
// a POST is not sent twice.
func TestSharesOfFourProcessesAreEven(t *testing.T) {
	proxy, servers, _ := four(t, httpproxy.Config{})
	counts := map[string]int{}
	for range 400 {
		counts[do(proxy, "GET", "/web/", "").Body.String()]++
	}
	for _, s := range servers {
		if counts[s.address] != 100 {
			t.Errorf("of 400 GETs %v, want 100 each", counts)
		}
	}
}

// Case E11
func TestAKilledProcessFailsNoGET(t *testing.T) {
	for _, policy := range []string{"round_robin", "least_request", "peak_ewma"} {
		t.Run(policy, func(t *testing.T) {
			proxy, servers, posts := four(t, httpproxy.Config{Policy: policy}, 2*time.Millisecond, 2*time.Millisecond, 2*time.Millisecond, 2*time.Millisecond)
			var failed, last atomic.Int64
			load(32, 4000, func(n int) {
				if n == 1000 {
					servers[0].kill()
				}
				w := do(proxy, "GET", "/web/", "")
				if w.Code != http.StatusOK {
					failed.Add(1)
					t.Logf("%d: %d %s", n, w.Code, w.Body)
				}
				if n > 3500 && w.Body.String() == servers[0].address {
					last.Add(1)
				}
			})
			stats := proxy.Stats()
			t.Logf("%d sent again, %d moved on", stats.Retries, stats.Moved)
			if failed.Load() != 0 || last.Load() != 0 {
				t.Errorf("%d GETs failed, and %d went to the killed instance later", failed.Load(), last.Load())
			}
			if stats.Retries+stats.Moved == 0 {
				t.Error("no GET was sent again: the test has killed nothing")
			}
			again := start(t, servers[0].address, 0, posts)
			eventually(t, "the instance that is back gets requests", func() bool {
				return do(proxy, "GET", "/web/", "").Body.String() == again.address
			})
		})
	}
}

// Case E11
func TestAPOSTIsNotSentTwice(t *testing.T) {
	proxy, servers, posts := four(t, httpproxy.Config{}, 2*time.Millisecond, 2*time.Millisecond, 2*time.Millisecond, 2*time.Millisecond)
	var mu sync.Mutex
	fine := map[string]bool{}
	failed := 0
	load(32, 6000, func(n int) {
		if n == 2000 || n == 4000 {
			servers[n/4000].kill()
		}
		id := fmt.Sprint("post-", n)
		w := do(proxy, "POST", "/web/", id)
		mu.Lock()
		defer mu.Unlock()
		if fine[id] = w.Code == http.StatusOK; !fine[id] {
			failed++
		}
	})
	text, err := os.ReadFile(posts)
	if err != nil {
		t.Fatal(err)
	}
	received := map[string]int{}
	for _, id := range strings.Fields(string(text)) {
		received[id]++
	}
	for id, ok := range fine {
		if received[id] > 1 || ok && received[id] != 1 {
			t.Errorf("%s was received %d times, answered %v", id, received[id], ok)
		}
	}
	// Those in flight at the killed instances fail: 32 each time at most.
	if failed > 64 {
		t.Errorf("%d POSTs failed", failed)
	}
	t.Logf("%d of 6000 POSTs failed, %d moved on before they were sent", failed, proxy.Stats().Moved)
}

// Case E11
func TestASlowProcessGetsLittle(t *testing.T) {
	for _, policy := range []string{"least_request", "peak_ewma"} {
		t.Run(policy, func(t *testing.T) {
			const pause = 10 * time.Millisecond
			proxy, servers, _ := four(t, httpproxy.Config{Policy: policy}, 40*pause, pause, pause, pause)
			var mu sync.Mutex
			counts := map[string]int{}
			load(16, 1000, func(int) {
				from := do(proxy, "GET", "/web/", "").Body.String()
				mu.Lock()
				defer mu.Unlock()
				counts[from]++
			})
			if n := counts[servers[0].address]; n == 0 || n > 100 {
				t.Errorf("the slow instance has %d of 1000 requests: %v", n, counts)
			}
			t.Log(counts[servers[0].address])
		})
	}
}

// An instance that answers no more is left out long before its requests time out.
func TestAStalledProcessGetsLittle(t *testing.T) {
	proxy, servers, _ := four(t, httpproxy.Config{Policy: "least_request", HeaderTimeout: 2 * time.Second}, 5*time.Millisecond, 5*time.Millisecond, 5*time.Millisecond, 5*time.Millisecond)
	var failed atomic.Int64
	load(16, 4000, func(n int) {
		if n == 1000 {
			if err := servers[0].Process.Signal(child.Freeze); err != nil {
				t.Error(err)
			}
		}
		if w := do(proxy, "GET", "/web/", ""); w.Code != http.StatusOK {
			failed.Add(1)
		}
	})
	if waited := proxy.Stats().Retries; failed.Load() != 0 || waited == 0 || waited > 100 {
		t.Errorf("%d GETs failed, %d waited for the stalled instance", failed.Load(), waited)
	}
}
