package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// tally counts calls by the instance that was picked.
type tally struct {
	calls, failed int
	codes         map[string]int
	rows          map[attempt.Instance]*row
	first         *outcome // that failed
	start         time.Time
}

type row struct {
	attempt.Instance
	calls, failed int
	spent         time.Duration
}

// repeat makes calls one after the other and prints who answered how many. An
// interrupt ends it early.
func (c *caller) repeat(ctx context.Context) error {
	t := &tally{codes: map[string]int{}, rows: map[attempt.Instance]*row{}, start: time.Now()}
	for range c.Repeat {
		o := c.attempt(ctx)
		if ctx.Err() != nil {
			break
		}
		t.add(o)
	}
	if err := c.printTally(t); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if t.failed > 0 {
		return fmt.Errorf("%d of %d calls failed, the first one: %w", t.failed, t.calls, c.failure(*t.first))
	}
	return nil
}

func (t *tally) add(o outcome) {
	r := t.rows[o.instance]
	if r == nil {
		r = &row{Instance: o.instance}
		t.rows[o.instance] = r
	}
	t.calls++
	r.calls++
	r.spent += o.duration
	t.codes[o.status.Code().String()]++
	if o.status.Code() == codes.OK {
		return
	}
	t.failed++
	r.failed++
	if t.first == nil {
		t.first = &o
	}
}

func (t *tally) sorted() []*row {
	rows := make([]*row, 0, len(t.rows))
	for _, r := range t.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Address, b.Address))
	})
	return rows
}

func (c *caller) printTally(t *tally) error {
	if c.Format == JSON {
		return WriteJSON(c.streams.Out, t.report())
	}
	w := tabwriter.NewWriter(c.streams.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tADDRESS\tCALLS\tSHARE\tFAILED\tMEAN")
	for _, r := range t.sorted() {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.0f%%\t%d\t%s\n", oneLine(cmp.Or(r.ID, "none")), oneLine(cmp.Or(r.Address, "-")),
			r.calls, 100*float64(r.calls)/float64(t.calls), r.failed, short(r.mean()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(c.streams.Err, "%d calls in %s, %d failed\n", t.calls, short(time.Since(t.start)), t.failed)
	return nil
}

func (r *row) mean() time.Duration { return r.spent / time.Duration(r.calls) }

// tallyReport is a tally as JSON.
type tallyReport struct {
	Calls      int              `json:"calls"`
	Failed     int              `json:"failed"`
	DurationMS float64          `json:"duration_ms"`
	Codes      map[string]int   `json:"codes"`
	Instances  []instanceReport `json:"instances"`
}

type instanceReport struct {
	Instance string  `json:"instance"`
	Address  string  `json:"address"`
	Calls    int     `json:"calls"`
	Failed   int     `json:"failed"`
	MeanMS   float64 `json:"mean_ms"`
}

func (t *tally) report() tallyReport {
	instances := []instanceReport{} // [] and not null for none
	for _, r := range t.sorted() {
		instances = append(instances, instanceReport{r.ID, r.Address, r.calls, r.failed, milliseconds(r.mean())})
	}
	return tallyReport{t.calls, t.failed, milliseconds(time.Since(t.start)), t.codes, instances}
}
