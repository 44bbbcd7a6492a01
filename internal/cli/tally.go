package cli

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// tally counts calls by the instance that was picked. It keeps the time of each, a
// million at most.
type tally struct {
	calls, failed int
	took          time.Duration // all of it
	codes         map[codes.Code]int
	rows          map[attempt.Instance]*instanceRow
	failureRows   map[failureKey]*failureRow
}

type instanceRow struct {
	attempt.Instance
	failed    int
	durations []time.Duration // of all its calls
}

type failureKey struct {
	code codes.Code
	attempt.Instance
}

type failureRow struct {
	failureKey
	calls   int
	example outcome // the first one
}

func newTally() *tally {
	return &tally{codes: map[codes.Code]int{}, rows: map[attempt.Instance]*instanceRow{}, failureRows: map[failureKey]*failureRow{}}
}

func (t *tally) add(o outcome) {
	r := t.rows[o.instance]
	if r == nil {
		r = &instanceRow{Instance: o.instance}
		t.rows[o.instance] = r
	}
	t.calls++
	r.durations = append(r.durations, o.duration)
	code := o.status.Code()
	t.codes[code]++
	if code == codes.OK {
		return
	}
	t.failed++
	r.failed++
	key := failureKey{code, o.instance}
	if t.failureRows[key] == nil {
		o.answer = nil
		t.failureRows[key] = &failureRow{failureKey: key, example: o}
	}
	t.failureRows[key].calls++
}

// instances are in the order of their ids.
func (t *tally) instances() []*instanceRow {
	return slices.SortedFunc(maps.Values(t.rows), func(a, b *instanceRow) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Address, b.Address))
	})
}

// failures are in the order of how many there are of their code, and then of theirs.
func (t *tally) failures() []*failureRow {
	return slices.SortedFunc(maps.Values(t.failureRows), func(a, b *failureRow) int {
		return cmp.Or(cmp.Compare(t.codes[b.code], t.codes[a.code]), cmp.Compare(a.code, b.code),
			cmp.Compare(b.calls, a.calls), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Address, b.Address))
	})
}

// durations are those of all calls.
func (t *tally) durations() []time.Duration {
	var all []time.Duration
	for _, r := range t.rows {
		all = append(all, r.durations...)
	}
	return all
}

func (t *tally) codeNames() map[string]int {
	names := map[string]int{}
	for code, n := range t.codes {
		names[code.String()] = n
	}
	return names
}

// codeList is how many calls failed with which code, the most first.
func (t *tally) codeList() string {
	var list []string
	seen := map[codes.Code]bool{}
	for _, f := range t.failures() {
		if !seen[f.code] {
			seen[f.code] = true
			list = append(list, fmt.Sprintf("%d %v", t.codes[f.code], f.code))
		}
	}
	return strings.Join(list, ", ")
}

// grid is a row for each instance.
func (t *tally) grid() *grid {
	g := &grid{fields: []field{{head: "INSTANCE", least: 20, begin: true}, {head: "ADDRESS", drop: 6}, {head: "CALLS"}, {head: "SHARE", drop: 4},
		{head: "FAILED"}, {head: "MEAN", drop: 1}, {head: "P50", drop: 2}, {head: "P95", drop: 3}, {head: "P99"}, {head: "MAX", drop: 5}}}
	for _, r := range t.instances() {
		l, n := latenciesOf(r.durations), len(r.durations)
		g.add(instanceCell(r.Instance), cell(r.Address), fmt.Sprint(n), fmt.Sprintf("%.0f%%", 100*float64(n)/float64(t.calls)), fmt.Sprint(r.failed),
			short(l.mean), short(l.p50), short(l.p95), short(l.p99), short(l.most))
	}
	return g
}

// instanceCell is the id of an instance, if one was picked.
func instanceCell(i attempt.Instance) string { return oneLine(cmp.Or(i.ID, "none")) }

// latencies are how long calls took. Each percentile is that of a call.
type latencies struct{ mean, p50, p95, p99, most time.Duration }

// latenciesOf sorts durations.
func latenciesOf(durations []time.Duration) latencies {
	if len(durations) == 0 {
		return latencies{}
	}
	slices.Sort(durations)
	var sum time.Duration
	for _, d := range durations {
		sum += d
	}
	at := func(q float64) time.Duration { return durations[int(math.Ceil(q*float64(len(durations))))-1] }
	return latencies{sum / time.Duration(len(durations)), at(0.5), at(0.95), at(0.99), durations[len(durations)-1]}
}

func (l latencies) text() string {
	return fmt.Sprintf("mean %s, p50 %s, p95 %s, p99 %s", short(l.mean), short(l.p50), short(l.p95), short(l.p99))
}
