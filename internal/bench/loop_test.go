package bench

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// callers ask at once, each again as soon as it has its answer.
const callers = 32

// load is how long they do so: either a number of calls for each, or a time of which
// the first part, while connections are made and policies learn, does not count.
type load struct {
	calls        int
	warm, window time.Duration
}

// measure is what they have seen.
type measure struct {
	rate     float64 // calls a second
	p50, p99 time.Duration
	cpu      time.Duration // of this process, for one call
	between  time.Duration // of the processes between callers and backends, for one call
	calls    int
	slow     float64 // the part of the calls that the first backend has answered
	answers  [backendCount]int
}

// caller is one of them.
type caller struct {
	took    []time.Duration // for the calls that count
	answers [backendCount]int
	err     error
}

// clients are how callers reach the backends.
type clients interface {
	// call is how the i-th caller calls, and which backend has answered, if that is known.
	call(i int) func() (backend string, err error)
	group() int // process group of what stands between, 0 is none
	close()
}

// text is what is asked and answered.
var text = strings.Repeat("x", 100)

// run plays load over c, whose window begins after the warm time.
func (l load) run(c clients) (measure, error) {
	all := make([]caller, callers)
	begin := time.Now().Add(l.warm)
	var work sync.WaitGroup
	for i := range all {
		all[i].took = make([]time.Duration, 0, 1<<13) // growing is no part of a call
		work.Go(func() { all[i].repeat(l, c.call(i), begin) })
	}
	cpu, between := l.cpu(begin, c.group())
	work.Wait()
	m, err := sum(all, l.window)
	if n := time.Duration(m.calls); n > 0 {
		m.cpu, m.between = cpu/n, between/n
	}
	return m, err
}

// repeat calls until the load is over.
func (a *caller) repeat(l load, call func() (string, error), begin time.Time) {
	end := begin.Add(l.window)
	for n, start := 0, time.Now(); l.more(n, start, end); n++ {
		backend, err := call()
		if err != nil {
			a.err = err
			return
		}
		now := time.Now()
		if l.calls > 0 || now.After(begin) && now.Before(end) {
			a.count(backend, now.Sub(start))
		}
		start = now
	}
}

func (l load) more(n int, now, end time.Time) bool {
	if l.calls > 0 {
		return n < l.calls
	}
	return now.Before(end)
}

func (a *caller) count(backend string, took time.Duration) {
	a.took = append(a.took, took)
	if i, err := strconv.Atoi(backend); err == nil && i >= 0 && i < len(a.answers) {
		a.answers[i]++
	}
}

// cpu is what this process and those of group use of it in the window.
func (l load) cpu(begin time.Time, group int) (own, between time.Duration) {
	if l.calls > 0 {
		return 0, 0
	}
	time.Sleep(time.Until(begin))
	own, between = used(), usedBy(group)
	time.Sleep(time.Until(begin.Add(l.window)))
	return used() - own, usedBy(group) - between
}

// used is the CPU time of this process until now.
func used() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it fails for arguments that are wrong, and these are not
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func sum(all []caller, window time.Duration) (measure, error) {
	var m measure
	var took []time.Duration
	for i := range all {
		if all[i].err != nil {
			return m, all[i].err
		}
		took = append(took, all[i].took...)
		for k, n := range all[i].answers {
			m.answers[k] += n
		}
	}
	if len(took) == 0 {
		return m, fmt.Errorf("no call has ended in %v: make -window longer", window)
	}
	slices.Sort(took)
	m.p50, m.p99 = quantile(took, 0.5), quantile(took, 0.99)
	m.calls = len(took)
	m.slow = float64(m.answers[0]) / float64(len(took))
	if window > 0 {
		m.rate = float64(len(took)) / window.Seconds()
	}
	return m, nil
}

// quantile is what a part q of the sorted times does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(times, q); got != want {
			t.Errorf("quantile %v of 1 to 100 is %d, want %d", q, got, want)
		}
	}
}
