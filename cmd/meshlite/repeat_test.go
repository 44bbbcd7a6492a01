package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
)

func TestRepeatShowsTheBalancing(t *testing.T) {
	openAgent(t)
	openShop(t, "catalog", 3, meshlite.WithReflection())
	for _, policy := range []string{"round_robin", "least_request"} {
		t.Run(policy, func(t *testing.T) {
			r := call(t, "consul:///catalog?policy="+policy, listSections, "-n", "300", "-o", "json")
			r.want(t, 0, "", "")
			var report struct {
				Calls, Failed int
				Codes         map[string]int
				Instances     []struct{ Calls, Failed int }
			}
			if err := json.Unmarshal([]byte(r.out), &report); err != nil {
				t.Fatalf("%v in %s", err, r.out)
			}
			if report.Calls != 300 || report.Failed != 0 || report.Codes["OK"] != 300 || len(report.Instances) != 3 {
				t.Fatalf("got %s", r.out)
			}
			for _, instance := range report.Instances {
				if instance.Calls < 60 || instance.Calls > 140 {
					t.Errorf("%s spreads so: %+v", policy, report.Instances)
				}
			}
		})
	}
}

func TestRepeatTable(t *testing.T) {
	openAgent(t)
	openShop(t, "catalog", 2, meshlite.WithReflection())
	r := call(t, "consul:///catalog", getSweet, "-n", "20", "-d", `{"id": "limited"}`)
	r.want(t, 1, "FAILED", "meshlite: 20 of 20 calls failed, the first one: "+getSweet+": ResourceExhausted")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "INSTANCE ") || !strings.HasPrefix(lines[1], "catalog-127-0-0-1-") {
		t.Errorf("got\n%s", r.out)
	}
}

// What was counted before an interrupt is shown.
func TestRepeatInterrupted(t *testing.T) {
	openAgent(t)
	shop := openShop(t, "catalog", 1, meshlite.WithReflection())
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for {
			shop.mu.Lock()
			enough := shop.calls > 3
			shop.mu.Unlock()
			if enough {
				stop()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	r := meshliteWith(ctx, "", "call", "--plaintext", "consul:///catalog", getSweet, "-n", "1000000")
	r.want(t, 130, "INSTANCE", "meshlite: interrupted")
}

func TestInterruptedWhileCalling(t *testing.T) {
	openAgent(t)
	openShop(t, "catalog", 1, meshlite.WithReflection())
	ctx, stop := context.WithCancel(t.Context())
	defer time.AfterFunc(300*time.Millisecond, stop).Stop()
	meshliteWith(ctx, "", "call", "--plaintext", "consul:///catalog", getSweet, "-d", `{"id": "slow"}`).want(t, 130, "", "meshlite: interrupted")
}

func TestInterruptedWhileReading(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer time.AfterFunc(50*time.Millisecond, stop).Stop()
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	var out, stderr buffer
	code := run(ctx, []string{"call", "a:1", "b.S/M", "-d", "-"}, in, &out, &stderr)
	result{code, out.String(), stderr.String()}.want(t, 130, "", "meshlite: interrupted")
}
