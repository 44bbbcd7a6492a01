package main

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

func TestRepeatShowsTheBalancing(t *testing.T) {
	racetest.Skip(t)
	openAgent(t)
	openReflectingShop(t, "catalog", 3)
	for _, policy := range []string{"round_robin", "least_request"} {
		t.Run(policy, func(t *testing.T) {
			r := call(t, "consul:///catalog?policy="+policy, listSections, "-n", "6000", "-o", "json")
			r.want(t, 0, "", "")
			var report struct {
				Calls, Failed int
				Codes         map[string]int
				Instances     []struct{ Calls, Failed int }
			}
			if err := json.Unmarshal([]byte(r.out), &report); err != nil {
				t.Fatalf("%v in %s", err, r.out)
			}
			if report.Calls != 6000 || report.Failed != 0 || report.Codes["OK"] != 6000 || len(report.Instances) != 3 {
				t.Fatalf("got %s", r.out)
			}
			for _, instance := range report.Instances {
				if instance.Calls < 1200 { // the first to be connected has some calls alone
					t.Errorf("%s spreads so: %+v", policy, report.Instances)
				}
			}
		})
	}
}

func TestRepeatTable(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 2)
	r := call(t, "consul:///catalog", getSweet, "-n", "20", "-d", `{"id": "limited"}`)
	r.want(t, 1, " MEAN ", "meshlite: 20 of 20 calls failed: 20 ResourceExhausted\n")
	r.want(t, 1, "\n\nResourceExhausted: too many; \ufffd[2Jcalls; retry in 2s\n", "20 calls in ")
	lines := strings.Split(r.out, "\n")
	if !strings.HasPrefix(lines[0], "INSTANCE ") || !strings.HasPrefix(lines[1], "catalog-127-0-0-1-") || strings.ContainsAny(r.out, "\x1b{") {
		t.Errorf("got\n%s", r.out)
	}
	failed := 0
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) == 4 && fields[0] == "ResourceExhausted" && strings.HasPrefix(fields[1], "catalog-127-0-0-1-") {
			n, _ := strconv.Atoi(fields[3])
			failed += n
		}
	}
	if failed != 20 {
		t.Errorf("%d calls failed by code and instance, want 20:\n%s", failed, r.out)
	}
}

// So many callers as -c says call at once: each call waits here until all are there.
func TestCallersAtOnce(t *testing.T) {
	openAgent(t)
	shop := openReflectingShop(t, "catalog", 1)
	shop.together = make(chan struct{}, 5)
	r := call(t, "consul:///catalog", getSweet, "-d", `{"id": "together"}`, "-n", "20", "-c", "5", "-o", "json")
	r.want(t, 0, "", "")
	var report struct {
		Calls, Failed int
		Codes         map[string]int
		Failures      []any
		P50           float64 `json:"p50_ms"`
		P99           float64 `json:"p99_ms"`
		Mean          float64 `json:"mean_ms"`
		Max           float64 `json:"max_ms"`
		Instances     []struct {
			Calls int
			P50   float64 `json:"p50_ms"`
			P99   float64 `json:"p99_ms"`
		}
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	if report.Calls != 20 || report.Codes["OK"] != 20 || report.Failures == nil || len(report.Instances) != 1 || report.Instances[0].Calls != 20 {
		t.Errorf("got %s", r.out)
	}
	if !(0 < report.P50 && report.P50 <= report.P99 && report.P99 <= report.Max && report.Mean <= report.Max) || report.Instances[0].P99 != report.P99 {
		t.Errorf("the times are %s", r.out)
	}
}

// Every failure of a code at an instance is in the JSON, with an example as of one call.
func TestFailuresAsJSON(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	r := call(t, "consul:///catalog", getSweet, "-n", "3", "-d", `{"id": "limited"}`, "-o", "json")
	r.want(t, 1, "", "")
	var report struct {
		Failures []struct {
			Code, Instance, Address string
			Calls                   int
			Example                 struct {
				Code, Message string
				Details       []map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || len(report.Failures) != 1 {
		t.Fatalf("%v in %s", err, r.out)
	}
	f := report.Failures[0]
	if f.Code != "ResourceExhausted" || f.Calls != 3 || !strings.HasPrefix(f.Instance, "catalog-") || f.Example.Details[0]["retryDelay"] != "2s" || f.Example.Code != f.Code {
		t.Errorf("got %s", r.out)
	}
}

// What was counted before an interrupt is shown.
func TestRepeatInterrupted(t *testing.T) {
	openAgent(t)
	shop := openReflectingShop(t, "catalog", 1)
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
	openReflectingShop(t, "catalog", 1)
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
