package identity_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// load calls s until stop, which returns the number of calls and the first error.
func load(t *testing.T, s *server, creds *identity.Credentials, callers int) (stop func() (int64, error)) {
	t.Helper()
	conn := dialConn(t, s, creds)
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for ctx.Err() == nil {
				if _, err := healthv1.NewHealthClient(conn).Check(context.Background(), &healthv1.HealthCheckRequest{}); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
				calls.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	return func() (int64, error) {
		cancel()
		running.Wait()
		if err := failed.Load(); err != nil {
			return calls.Load(), *err
		}
		return calls.Load(), nil
	}
}

// rotating publishes a leaf of life after life.
type rotating struct {
	*identity.Feed
	issue func()
}

func newRotating(t *testing.T, service string, life time.Duration, authority *certtest.Authority) *rotating {
	r := &rotating{Feed: &identity.Feed{}}
	r.issue = func() {
		r.Publish(snapshot(t, authority.IssueID(t, life, idOf(service).String()), authority))
	}
	r.issue()
	return r
}

// Case I2: A leaf is renewed well before its end; 100 rotations under load fail 0 calls.
func TestRotationsOfTheLeafFailNoCall(t *testing.T) {
	// Certificates have whole seconds, and are renewed when a third of their life has passed.
	const life, every, rotations = 6 * time.Second, 100 * time.Millisecond, 100
	authority := certtest.New(t)
	mine, others := newRotating(t, "storefront", life, authority), newRotating(t, "catalog", life, authority)
	client, server := with(t, mine), with(t, others)
	s := serve(t, server)
	stop := load(t, s, client, 4)
	for i := range rotations {
		time.Sleep(every)
		if i%2 == 0 {
			mine.issue()
		} else {
			others.issue()
		}
	}
	calls, err := stop()
	stats := client.Stats()
	if err != nil {
		t.Errorf("of %d calls one failed: %v", calls, err)
	}
	if stats.Replaced == 0 || stats.Cut != 0 || server.Stats().Cut != 0 {
		t.Errorf("%d connections were replaced, %d and %d cut: want some, and none", stats.Replaced, stats.Cut, server.Stats().Cut)
	}
}

// Case I3: Roots rotate with both valid in between: 0 failed calls; afterwards a leaf of the
// old root is refused.
func TestRotationOfTheRootsFailsNoCall(t *testing.T) {
	old, next := certtest.New(t), certtest.New(t)
	oldLeaf := func(service string) *identity.Snapshot {
		return snapshot(t, old.IssueID(t, time.Hour, idOf(service).String()), old)
	}
	mine, others := feed(oldLeaf("storefront")), feed(oldLeaf("catalog"))
	client, server := with(t, mine), with(t, others)
	s := serve(t, server)
	stop := load(t, s, client, 4)
	steps := []func(f *identity.Feed, service string){
		func(f *identity.Feed, service string) { // both are trusted
			f.Publish(snapshot(t, old.IssueID(t, time.Hour, idOf(service).String()), old, next))
		},
		func(f *identity.Feed, service string) { // the new one signs
			f.Publish(snapshot(t, next.IssueID(t, time.Hour, idOf(service).String()), old, next))
		},
		func(f *identity.Feed, service string) { // the old one is withdrawn
			f.Publish(snapshot(t, next.IssueID(t, time.Hour, idOf(service).String()), next))
		},
	}
	for _, step := range steps {
		step(mine, "storefront")
		time.Sleep(50 * time.Millisecond)
		step(others, "catalog")
		time.Sleep(50 * time.Millisecond)
	}
	if calls, err := stop(); err != nil || calls == 0 {
		t.Errorf("of %d calls one failed: %v", calls, err)
	}
	late := with(t, feed(snapshot(t, old.IssueID(t, time.Hour, idOf("storefront").String()), old, next)))
	if err := check(t, dial(t, s, late)); err == nil {
		t.Error("a leaf of the old root is accepted")
	}
	eventually(t, "the refusal is counted", func() bool { return server.Stats().Refused[identity.UnknownAuthority] > 0 })
	eventually(t, "it is counted by the client", func() bool { return late.Stats().Refused[identity.RefusedByPeer] > 0 })
}

// A connection that is replaced keeps the calls that run on it, and new ones take another.
func TestAReplacedConnectionKeepsItsStreams(t *testing.T) {
	authority := certtest.New(t)
	mine := feed(snapshot(t, authority.IssueID(t, 5*time.Second, idOf("storefront").String()), authority))
	client := with(t, mine)
	s := serve(t, of(t, authority, "catalog"))
	calls := healthv1.NewHealthClient(dialConn(t, s, client))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := calls.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := stream.Recv(); ended <- err }()
	mine.Publish(snapshot(t, authority.IssueID(t, time.Hour, idOf("storefront").String()), authority))
	eventually(t, "the connection is replaced", func() bool { return client.Stats().Replaced == 1 })
	if err := check(t, calls); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if client.Stats().Cut == 0 {
			t.Errorf("the stream ended by %v before its certificate", err)
		}
	default:
		if n := client.Stats().Connections; n != 2 && client.Stats().Cut == 0 {
			t.Errorf("%d connections, want the new one beside the old", n)
		}
	}
	<-ended // with the certificate
	eventually(t, "the old connection is closed", func() bool { return client.Stats().Connections == 1 })
}

// At the end of the last leaf what was configured happens, loudly.
//
// Case I4
func TestAnEndedCertificateIsUsedOnlyIfThatIsConfigured(t *testing.T) {
	authority := certtest.New(t)
	for _, configured := range []bool{false, true} {
		t.Run(fmt.Sprint(configured), func(t *testing.T) {
			log := &logged{}
			opts := []identity.Option{identity.WithLogger(log.logger())}
			if configured {
				opts = append(opts, identity.WithExpiryGrace(time.Hour))
			}
			ended := func(service string) *identity.Credentials {
				return with(t, feed(snapshot(t, authority.IssueID(t, -time.Minute, idOf(service).String()), authority)), opts...)
			}
			client := ended("storefront")
			s := serve(t, ended("catalog"))
			err := check(t, dial(t, s, client))
			if configured {
				if err != nil || !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "ended_ago=1m0s") {
					t.Errorf("%v; %s", err, log)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), string(identity.NoOwnCertificate)) || client.Ready() == nil || client.Stats().Error == "" {
				t.Errorf("%v, %v, %+v", err, client.Ready(), client.Stats())
			}
		})
	}
}

// A process that has no certificate yet waits for it rather than to fail the first calls.
func TestTheFirstCallWaitsForTheFirstCertificate(t *testing.T) {
	authority := certtest.New(t)
	mine, others := &identity.Feed{}, &identity.Feed{}
	s := serve(t, with(t, others))
	done := make(chan error, 1)
	client := dial(t, s, with(t, mine))
	go func() { done <- check(t, client, grpc.WaitForReady(true)) }()
	mine.Publish(snapshot(t, authority.IssueID(t, time.Hour, idOf("storefront").String()), authority))
	others.Publish(snapshot(t, authority.IssueID(t, time.Hour, idOf("catalog").String()), authority))
	if err := <-done; err != nil {
		t.Error(err)
	}
}
