package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// repeat makes calls, concurrently with Callers, and prints count and latency of each
// instance, and the failures. An interrupt ends it early.
func (c *preparedCall) repeat(ctx context.Context) error {
	t := newTally()
	var mu sync.Mutex
	start := time.Now()
	each(c.Repeat, max(c.Callers, 1), func(int) {
		if ctx.Err() != nil {
			return
		}
		o := c.attempt(ctx)
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil { // else the interrupt has ended it
			t.add(o)
		}
	})
	t.took = time.Since(start)
	if err := c.printTally(t); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if t.failed > 0 {
		return fmt.Errorf("%d of %d calls failed: %s", t.failed, t.calls, t.codeList())
	}
	return nil
}

func (c *preparedCall) printTally(t *tally) error {
	if c.Format == JSON {
		return WriteJSON(c.streams.Out, c.tallyReport(t))
	}
	tables := newTables(c.streams.Out)
	if err := tables.write(t.grid()); err != nil {
		return err
	}
	if err := c.printFailures(tables, t); err != nil {
		return err
	}
	if err := tables.close(); err != nil {
		return err
	}
	fmt.Fprintf(c.streams.Err, "%d calls in %s, %s per second, %d failed\n%s\n", t.calls, short(t.took),
		perSecond(float64(t.calls)/max(t.took.Seconds(), 1e-9)), t.failed, latenciesOf(t.durations()).text())
	return nil
}

// printFailures writes how many calls failed by code and instance, and an example of
// each code in words.
func (c *preparedCall) printFailures(tables *tables, t *tally) error {
	if t.failed == 0 {
		return nil
	}
	g := &grid{fields: []field{{head: "FAILED WITH"}, {head: "INSTANCE", least: 20, begin: true}, {head: "ADDRESS", drop: 1}, {head: "CALLS"}}}
	var examples []string
	seen := map[codes.Code]bool{}
	for _, f := range t.failures() {
		g.add(f.code.String(), instanceCell(f.Instance), cell(f.Address), fmt.Sprint(f.calls))
		if !seen[f.code] {
			seen[f.code] = true
			examples = append(examples, c.words(f.example.status))
		}
	}
	out := c.streams.Out
	fmt.Fprintln(out)
	if err := tables.write(g); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, text := range examples {
		lines := []string{oneLine(text)}
		if tables.width > 0 {
			lines = broken(lines[0], tables.width)
		}
		if _, err := fmt.Fprintln(out, strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// tallyReport is a tally as JSON.
type tallyReport struct {
	Calls      int              `json:"calls"`
	Failed     int              `json:"failed"`
	DurationMS float64          `json:"duration_ms"`
	Codes      map[string]int   `json:"codes"`
	Instances  []instanceReport `json:"instances"`
	Failures   []failureReport  `json:"failures"`
	latencyReport
}

// latencyReport is of calls, the failed ones too.
type latencyReport struct {
	MeanMS float64 `json:"mean_ms"`
	P50MS  float64 `json:"p50_ms"`
	P95MS  float64 `json:"p95_ms"`
	P99MS  float64 `json:"p99_ms"`
	MaxMS  float64 `json:"max_ms"`
}

type instanceReport struct {
	Instance string `json:"instance"`
	Address  string `json:"address"`
	Calls    int    `json:"calls"`
	Failed   int    `json:"failed"`
	latencyReport
}

// failureReport is of the calls of an instance that failed with a code.
type failureReport struct {
	Code     string `json:"code"`
	Instance string `json:"instance"`
	Address  string `json:"address"`
	Calls    int    `json:"calls"`
	Example  report `json:"example"`
}

func (c *preparedCall) tallyReport(t *tally) tallyReport {
	r := tallyReport{Calls: t.calls, Failed: t.failed, DurationMS: milliseconds(t.took), Codes: t.codeNames(),
		Instances: []instanceReport{}, Failures: []failureReport{}, // [] and not null for none
		latencyReport: latenciesOf(t.durations()).report()}
	for _, i := range t.instances() {
		r.Instances = append(r.Instances, instanceReport{i.ID, i.Address, len(i.durations), i.failed, latenciesOf(i.durations).report()})
	}
	for _, f := range t.failures() {
		r.Failures = append(r.Failures, failureReport{f.code.String(), f.ID, f.Address, f.calls, c.report(f.example)})
	}
	return r
}

func (l latencies) report() latencyReport {
	return latencyReport{milliseconds(l.mean), milliseconds(l.p50), milliseconds(l.p95), milliseconds(l.p99), milliseconds(l.most)}
}
