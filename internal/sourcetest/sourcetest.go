// Package sourcetest holds what every certificate source of package identity must do, whoever
// signs: each source's own tests run all of it against the authority that they have.
package sourcetest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
)

// Source is a source with its authority.
type Source struct {
	identity.Source
	ID      string            // that is issued
	Target  string            // the service that a client asks for to reach ID
	Options []identity.Option // that Target needs

	Renew        func() // makes the authority issue another leaf. Nil: it does so with time
	AddRoot      func() // makes another root the active one: both are trusted
	DropOldRoots func()
	SetReachable func(bool) // ends or restores the way to the authority
	SetAllowed   func(bool) // takes or gives the right to certificates. Nil: there are none
}

// Checks are by name. Each takes a source of its own.
var Checks = map[string]func(testing.TB, Source){
	"issues":             issues,
	"renews":             renews,
	"rotates roots":      rotatesRoots,
	"outlives an outage": func(t testing.TB, s Source) { outlives(t, s, s.SetReachable) },
	"loses its right":    losesItsRight,
	"is used by many":    isUsedByMany,
}

const patience = time.Hour // virtual where the test is, and else bounded by the test binary's own

// next fails the test if there is no other snapshot.
func next(t testing.TB, s Source, last *identity.Snapshot) *identity.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := s.Next(ctx, last)
	if err != nil {
		_, why := s.Current()
		t.Fatal(err, why)
	}
	return n
}

// until returns the first snapshot from last on that is as wanted.
func until(t testing.TB, s Source, last *identity.Snapshot, is func(*identity.Snapshot) bool) *identity.Snapshot {
	t.Helper()
	for !is(last) {
		last = next(t, s, last)
	}
	return last
}

func (s Source) renew() {
	if s.Renew != nil {
		s.Renew()
	}
}

func issues(t testing.TB, s Source) {
	first := next(t, s, nil)
	if got := first.ID().String(); got != s.ID {
		t.Errorf("the certificate is of %s, want %s", got, s.ID)
	}
	if now, err := s.Current(); err != nil || now != first {
		t.Errorf("the current certificates are %v, %v: want those that Next has returned", now, err)
	}
	if len(first.Roots()) != 1 {
		t.Errorf("%d roots, want 1", len(first.Roots()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx, first); !errors.Is(err, context.Canceled) {
		t.Errorf("Next of a caller that is gone returns %v", err)
	}
	connect(t, s)
}

func renews(t testing.TB, s Source) {
	last := next(t, s, nil)
	for range 3 {
		s.renew()
		renewed := until(t, s, last, func(n *identity.Snapshot) bool { return !n.Leaf().Equal(last.Leaf()) })
		if !time.Now().Before(last.Leaf().NotAfter) {
			t.Error("a leaf is renewed after its end")
		}
		if renewed.ID() != last.ID() || len(renewed.Roots()) != 1 {
			t.Errorf("the next certificate is of %v, with %d roots", renewed.ID(), len(renewed.Roots()))
		}
		last = renewed
	}
	connect(t, s)
}

// rotatesRoots sees no leaf whose root it does not have: NewSnapshot would not make that.
func rotatesRoots(t testing.TB, s Source) {
	old := next(t, s, nil)
	s.AddRoot()
	both := until(t, s, old, func(n *identity.Snapshot) bool { return !n.Leaf().Equal(old.Leaf()) && len(n.Roots()) == 2 })
	connect(t, s)
	s.DropOldRoots()
	after := until(t, s, both, func(n *identity.Snapshot) bool { return len(n.Roots()) == 1 })
	if after.Roots()[0].Equal(old.Roots()[0]) {
		t.Error("the root that is left is the old one")
	}
	connect(t, s)
}

// outlives takes away what a source lives by for a while.
func outlives(t testing.TB, s Source, set func(bool)) {
	last := next(t, s, nil)
	set(false)
	s.renew()
	if now, err := s.Current(); err != nil || now != last {
		t.Errorf("meanwhile: %v, %v", now, err)
	}
	connect(t, s)
	set(true)
	s.renew()
	until(t, s, last, func(n *identity.Snapshot) bool { return !n.Leaf().Equal(last.Leaf()) })
	connect(t, s)
}

func losesItsRight(t testing.TB, s Source) {
	if s.SetAllowed != nil {
		outlives(t, s, s.SetAllowed)
	}
}

func isUsedByMany(t testing.TB, s Source) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			var last *identity.Snapshot
			for range 2 {
				n, err := s.Next(ctx, last)
				if err != nil || n == last {
					t.Errorf("Next returns %v, %v", n, err)
					return
				}
				last = n
				if _, err := s.Current(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for {
		s.renew() // again, for those that have begun with the second certificate
		select {
		case <-done:
			return
		case <-time.After(time.Second):
		}
	}
}

// connect secures a connection whose both ends have the source's certificate.
func connect(t testing.TB, s Source) {
	t.Helper()
	mtls, err := identity.New(s.Source, append([]identity.Option{identity.WithLogger(slog.New(slog.DiscardHandler))}, s.Options...)...)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		secured, _, err := mtls.ServerHandshake(far)
		if err == nil {
			defer secured.Close()
			_, err = secured.Write([]byte{1})
		}
		served <- err
	}()
	secured, _, err := mtls.ClientHandshake(t.Context(), s.Target, near)
	if err == nil {
		_, err = secured.Read(make([]byte, 1))
		secured.Close()
	}
	near.Close()
	if served := <-served; err != nil || served != nil {
		t.Errorf("no connection can be secured: client %v, server %v", err, served)
	}
}
