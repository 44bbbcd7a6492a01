// Package openloop sends calls at times that do not depend on how the answers
// come, as customers do. A closed loop waits for an answer before it asks again and
// so asks least when there is most to measure.
//
//	loop := openloop.New(2000)
//	loop.Go(ctx, time.Now(), openloop.Rate(300), func(n int, due time.Time) func() {
//		return func() { ask(n); took := time.Since(due) }
//	})
//	...
//	loop.Finish()
package openloop

import (
	"context"
	"sync"
	"time"
)

// Loop owns the goroutines of its calls: Finish waits for them.
type Loop struct {
	over  chan struct{} // closed when no call is to be sent any more
	work  sync.WaitGroup
	slots chan struct{} // one for each call in flight
}

// New makes a loop that has at most maxInFlight calls in flight.
func New(maxInFlight int) *Loop {
	return &Loop{over: make(chan struct{}), slots: make(chan struct{}, maxInFlight)}
}

// Rate is a steady number of calls a second, for [Loop.Go].
func Rate(perSecond int) func(time.Duration) time.Duration {
	return func(t time.Duration) time.Duration { return t + time.Second/time.Duration(perSecond) }
}

// Go sends calls from start on until Finish, or until ctx ends. after says when the
// call after one that is due at t is due, both since start. call prepares the n-th
// call, one after the other; what it returns runs in a goroutine of its own. A call
// that could not be sent when it was due is sent as soon as it can be, and none is
// left out.
func (l *Loop) Go(ctx context.Context, start time.Time, after func(t time.Duration) time.Duration, call func(n int, due time.Time) func()) {
	l.work.Go(func() { l.run(ctx, start, after, call) })
}

func (l *Loop) run(ctx context.Context, start time.Time, after func(time.Duration) time.Duration, call func(int, time.Time) func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n, at := 0, time.Duration(0); ; n, at = n+1, after(at) {
		due := start.Add(at)
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-l.over:
			return
		case <-ctx.Done():
			return
		}
		do := call(n, due)
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		l.work.Go(func() {
			defer func() { <-l.slots }()
			do()
		})
	}
}

// Finish sends no more and waits for the calls in flight, which must have a
// deadline.
func (l *Loop) Finish() {
	close(l.over)
	l.work.Wait()
}
