package balancer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// journal is a log that tests can read, and that looks at the table with each line: it
// would hang if the table's lock were held.
type journal struct {
	slog.Handler
	table *balancer.Table
	mu    *sync.Mutex
	text  *bytes.Buffer
}

func journaled() (*balancer.Table, journal) {
	j := journal{table: balancer.NewTable(), mu: &sync.Mutex{}, text: &bytes.Buffer{}}
	j.Handler = slog.NewJSONHandler(j.text, nil)
	return j.table.WithLogger(slog.New(j)), j
}

func (j journal) Handle(ctx context.Context, r slog.Record) error {
	j.table.Stats()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.Handler.Handle(ctx, r)
}

func (j journal) all(t *testing.T) (all []map[string]any) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for decoder := json.NewDecoder(j.text); ; {
		var one map[string]any
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

// Case logs
func TestEjectionsAndTheirEndsAreLogged(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table, log := journaled()
				c := balancertest.New(t, policy)
				c.Table = table
				c.Ready(`{"slowStart": {"window": "0s"}}`, 1, 1, 1)
				expect := func(msg, reason, time string, least, most time.Duration) {
					t.Helper()
					all := log.all(t)
					if len(all) != 1 || all[0]["msg"] != msg || all[0]["reason"] != reason || all[0]["level"] != "INFO" ||
						all[0]["address"] != balancertest.Address(1) || all[0]["instance"] == nil || all[0]["endpoints"] != 3.0 ||
						all[0]["ejected"] != map[string]float64{"endpoint ejected": 1}[msg] {
						t.Fatalf("lines %v, want one of %q for %q", all, msg, reason)
					}
					if got, _ := all[0][time].(float64); got < float64(least) || got > float64(most) {
						t.Errorf("%v, want %s from %v to %v", all[0], time, least, most)
					}
				}
				shares(t, c, 100)
				if all := log.all(t); len(all) != 0 {
					t.Fatalf("lines %v while all is well", all)
				}
				fail(t, c, 1, 5, codes.Unavailable)
				expect("endpoint ejected", "consecutive_failures", "probe_in", 10*time.Second, 11*time.Second)
				time.Sleep(11 * time.Second)
				settle()
				fail(t, c, 1, 1, codes.Unavailable)
				expect("endpoint ejected", "probe", "probe_in", 20*time.Second, 22*time.Second)
				time.Sleep(22 * time.Second)
				settle()
				on(t, c, 1)(success)
				expect("endpoint back", "probe", "after", 31*time.Second, 40*time.Second)
				fail(t, c, 1, 5, codes.Unavailable)
				log.all(t)
				c.Break(1)
				c.Reconnect(1)
				settle()
				expect("endpoint back", "reconnected", "after", 0, 5*time.Second)
				c.Policy.Close()
			})
		})
	}
}

// Case logs
func TestManyEjectionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, log := journaled()
		c := balancertest.New(t, roundrobin.Name)
		c.Table = table
		c.Ready(`{"ejection": {"maxEjectionPercent": 100, "panicPercent": 0}}`, balancertest.Equal(50)...)
		var done []func(grpcbalancer.DoneInfo)
		for range 250 {
			done = append(done, pick(t, c).Done)
		}
		for _, end := range done {
			end(ended(codes.Unavailable))
		}
		if all := log.all(t); len(all) != 20 {
			t.Errorf("%d lines in a second, want 20", len(all))
		}
		time.Sleep(15 * time.Second) // until the probes report
		all := log.all(t)
		if len(all) != 1 || all[0]["msg"] != "ejections left out of the log" || all[0]["count"] != 30.0 {
			t.Errorf("lines %v, want one that tells of 30", all)
		}
		c.Policy.Close()
	})
}
