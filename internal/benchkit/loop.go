package benchkit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Callers ask at once, each again as soon as it has its answer.
const Callers = 32

// Load is how long they do so: either a number of calls for each, or a time of which
// the first part, while connections are made and policies measure instances, does not count.
type Load struct {
	Calls        int
	Warm, Window time.Duration
	Callers      int // 0 is [Callers]
	Servers      int // process group of the backends, for their CPU time; 0 is not counted
}

// Measure is what they have seen.
type Measure struct {
	Rate           float64 // calls a second
	P50, P99, P999 time.Duration
	CPU            time.Duration // of this process, for one call
	Between        time.Duration // of the processes between callers and backends, for one call
	Servers        time.Duration // CPU time of the processes of Load.Servers, for one call
	Calls          int
	Slow           float64 // the part of the calls that the first backend has answered
	Answers        [BackendCount]int
}

// caller is one of them.
type caller struct {
	took    []time.Duration // for the calls that count
	answers [BackendCount]int
	err     error
}

// Clients are how callers reach the backends.
type Clients interface {
	// Call is how the i-th caller calls, and which backend has answered, if that is known.
	Call(i int) func() (backend string, err error)
	Group() int // process group of what stands between, 0 is none
	Close()
}

// Text is what is asked and answered.
var Text = strings.Repeat("x", 100)

// Run plays the load over c, whose window begins after the warm time.
func (l Load) Run(c Clients) (Measure, error) {
	all := make([]caller, cmp.Or(l.Callers, Callers))
	begin := time.Now().Add(l.Warm)
	var work sync.WaitGroup
	for i := range all {
		all[i].took = make([]time.Duration, 0, 1<<13) // growing is no part of a call
		work.Go(func() { all[i].repeat(l, c.Call(i), begin) })
	}
	used := l.cpu(begin, c.Group())
	work.Wait()
	m, err := sum(all, l.Window)
	if n := time.Duration(m.Calls); n > 0 {
		m.CPU, m.Between, m.Servers = used.own/n, used.between/n, used.servers/n
	}
	return m, err
}

// repeat calls until the load is over.
func (a *caller) repeat(l Load, call func() (string, error), begin time.Time) {
	end := begin.Add(l.Window)
	for n, start := 0, time.Now(); l.more(n, start, end); n++ {
		backend, err := call()
		if err != nil {
			a.err = err
			return
		}
		now := time.Now()
		if l.Calls > 0 || now.After(begin) && now.Before(end) {
			a.count(backend, now.Sub(start))
		}
		start = now
	}
}

func (l Load) more(n int, now, end time.Time) bool {
	if l.Calls > 0 {
		return n < l.Calls
	}
	return now.Before(end)
}

func (a *caller) count(backend string, took time.Duration) {
	a.took = append(a.took, took)
	if i, err := strconv.Atoi(backend); err == nil && i >= 0 && i < len(a.answers) {
		a.answers[i]++
	}
}

// cpuTime is that of this process, of those between and of those of the backends.
type cpuTime struct{ own, between, servers time.Duration }

// cpu is what they use in the window.
func (l Load) cpu(begin time.Time, group int) cpuTime {
	if l.Calls > 0 {
		return cpuTime{}
	}
	now := func() cpuTime { return cpuTime{UsedCPU(), UsedBy(group), UsedBy(l.Servers)} }
	time.Sleep(time.Until(begin))
	from := now()
	time.Sleep(time.Until(begin.Add(l.Window)))
	to := now()
	return cpuTime{to.own - from.own, to.between - from.between, to.servers - from.servers}
}

func sum(all []caller, window time.Duration) (Measure, error) {
	var m Measure
	var took []time.Duration
	for i := range all {
		if all[i].err != nil {
			return m, all[i].err
		}
		took = append(took, all[i].took...)
		for k, n := range all[i].answers {
			m.Answers[k] += n
		}
	}
	if len(took) == 0 {
		return m, fmt.Errorf("no call has ended in %v: make -window longer", window)
	}
	slices.Sort(took)
	m.P50, m.P99, m.P999 = Quantile(took, 0.5), Quantile(took, 0.99), Quantile(took, 0.999)
	m.Calls = len(took)
	m.Slow = float64(m.Answers[0]) / float64(len(took))
	if window > 0 {
		m.Rate = float64(len(took)) / window.Seconds()
	}
	return m, nil
}

// Quantile is what a part q of the sorted times does not exceed.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
