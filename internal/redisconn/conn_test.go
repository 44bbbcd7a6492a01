package redisconn_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is one that nobody asks for anything: the tests do its work.
type client struct{ rueidis.Client }

const timeout = 20 * time.Millisecond

// reached is a way to a Redis that is well, as long as nobody says otherwise.
func reached(t *testing.T) *redisconn.Conn {
	t.Helper()
	options := redisconn.Defaults("test:")
	options.Client, options.Timeout, options.Log = client{}, timeout, slog.New(slog.DiscardHandler)
	options.Backoff, options.MaxBackoff = time.Hour, time.Hour
	var c *redisconn.Conn
	c = redisconn.New(redisconn.Config{Options: options, Probe: func(context.Context, rueidis.Client) (bool, error) {
		c.LetIn()
		return true, nil
	}})
	c.Start()
	synctest.Wait()
	if !c.Connected() {
		t.Fatal("it is not connected")
	}
	return c
}

// C17 and L7: a call waits for the timeout at most, whatever the client does meanwhile,
// and for half of the time that its caller has left; after five that have, none waits.
//
// Case C17
// Case L7
func TestACallWaitsForTheTimeoutAtMost(t *testing.T) {
	for name, test := range map[string]struct {
		deadline, want time.Duration
		heeds          bool // the client ends with its context
	}{
		"a client that hangs":              {0, timeout, false},
		"a client that gives up":           {0, timeout, true},
		"a caller with a minute":           {time.Minute, timeout, false},
		"a caller with less than twice it": {30 * time.Millisecond, 15 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := reached(t)
				defer c.Close()
				hung := make(chan struct{})
				defer close(hung)
				var asked atomic.Int64
				call := func() (time.Duration, error) {
					ctx := t.Context()
					if test.deadline > 0 {
						timed, cancel := context.WithTimeout(ctx, test.deadline)
						defer cancel()
						ctx = timed
					}
					start := time.Now()
					_, err := redisconn.Call(ctx, c, func(ctx context.Context, _ rueidis.Client) (int, error) {
						asked.Add(1)
						if test.heeds {
							<-ctx.Done()
							return 0, ctx.Err()
						}
						<-hung
						return 0, nil
					})
					return time.Since(start), err
				}
				for range redisconn.MaxFailures {
					if took, err := call(); took != test.want || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, redisconn.ErrAway) {
						t.Errorf("a call waits for %v and answers %v, want %v", took, err, test.want)
					}
				}
				for range 1000 {
					if took, err := call(); took != 0 || !errors.Is(err, redisconn.ErrAway) {
						t.Fatalf("after %d failures a call waits for %v and answers %v", redisconn.MaxFailures, took, err)
					}
				}
				if asked.Load() != redisconn.MaxFailures || c.Errors() != redisconn.MaxFailures || c.Refused() != 1000 {
					t.Errorf("the client was asked %d times; %d errors and %d refusals are counted", asked.Load(), c.Errors(), c.Refused())
				}
			})
		})
	}
}

// Calls beyond those that run at once wait for a place, and no longer than the timeout.
//
// Case C17
// Case L7
func TestACallWaitsForAPlaceNoLongerThanTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := reached(t)
		defer c.Close()
		hung := make(chan struct{})
		defer close(hung)
		took := make(chan time.Duration, 2*redisconn.MaxRunning)
		for range cap(took) {
			go func() {
				start := time.Now()
				_, _ = redisconn.Call(context.Background(), c, func(context.Context, rueidis.Client) (int, error) { <-hung; return 0, nil })
				took <- time.Since(start)
			}()
		}
		for range cap(took) {
			if d := <-took; d > timeout {
				t.Errorf("a call has waited for %v", d)
			}
		}
	})
}
