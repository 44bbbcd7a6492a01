package shop

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStartReturnsWhatTheRegistryLists(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "of another Consul")
	s := open(t, "well")
	before := time.Now()
	i, err := s.Start(t.Context(), "catalog", "--an", "argument")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(i.ID, "catalog-") || !strings.HasPrefix(i.Address, "127.0.0.1:") || i.Metrics != "127.0.0.1:1" {
		t.Errorf("got %+v, want the id, the address and the metrics of the registration", i)
	}
	if i.Registered.Before(before) || i.Registered.After(time.Now()) {
		t.Errorf("registered at %v, want between the start and now", i.Registered)
	}
	e, _ := s.book.await(t.Context(), i.Address, nil)
	if e.Metadata["args"] != "[--an argument]" || e.Metadata["token"] != "" {
		t.Errorf("the process saw %v, want its arguments and no token of another Consul", e.Metadata)
	}
}

func TestStartAtTakesThePlaceOfOneThatWasThere(t *testing.T) {
	s := open(t, "well")
	first, err := s.Start(t.Context(), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	early, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.StartAt(early, "catalog", first.Address); err == nil || !strings.Contains(err.Error(), "the registry lists another at "+first.Address) {
		t.Errorf("%v, want that the address is taken", err)
	}
	first.Stop(stopTimeout)
	second, err := s.StartAt(t.Context(), "catalog", first.Address)
	if err != nil || second.Address != first.Address || second.ID != first.ID || second.process == first.process {
		t.Errorf("%+v (%v), want another process at %s", second, err, first.Address)
	}
}

func TestCloseEndsEveryProcess(t *testing.T) {
	s := open(t, "well")
	var pids []int
	for _, service := range []string{"catalog", "inventory", "catalog"} {
		i, err := s.Start(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, i.process.cmd.Process.Pid)
	}
	s.Close()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if _, err := s.Start(t.Context(), "catalog"); err == nil {
		t.Error("a closed shop starts processes")
	}
}

func TestStartThatFails(t *testing.T) {
	s := open(t, "fail")
	_, err := s.Start(t.Context(), "inventory")
	if err == nil || !strings.Contains(err.Error(), "inventory did not start: it ended (exit status 1)") || !strings.Contains(err.Error(), "sugar is out") {
		t.Errorf("got %v, want how it ended and what it said", err)
	}
}

func TestStartTakesAnotherPortWhenItsOwnIsTaken(t *testing.T) {
	s := open(t, "taken once")
	if _, err := s.Start(t.Context(), "catalog"); err != nil {
		t.Error(err)
	}
}

func TestStartStopsWhatIsNotToBeWaitedFor(t *testing.T) {
	s := open(t, "silent")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Start(ctx, "catalog")
	if err == nil || !strings.Contains(err.Error(), "did not register") {
		t.Errorf("got %v, want that it did not register", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Start(cancelled, "catalog"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	for _, p := range s.processes {
		if !p.ended() {
			t.Errorf("process %d is left", p.cmd.Process.Pid)
		}
	}
}

func TestKillAndStop(t *testing.T) {
	s := open(t, "well")
	for name, end := range map[string]func(*Instance){
		"signal: killed": func(i *Instance) {
			if err := i.Kill(); err != nil {
				t.Error(err)
			}
		},
		"exit status 0": func(i *Instance) { i.Stop(5 * time.Second) },
	} {
		i, err := s.Start(t.Context(), "catalog")
		if err != nil {
			t.Fatal(err)
		}
		end(i)
		<-i.Exited()
		if i.State() != name {
			t.Errorf("it ended by %s, want %s", i.State(), name)
		}
		end(i) // is nothing to a process that has ended
	}
}

func TestStopKillsTheStubborn(t *testing.T) {
	s := open(t, "stubborn")
	i, err := s.Start(t.Context(), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	i.Stop(200 * time.Millisecond)
	if i.State() != "signal: killed" {
		t.Errorf("it ended by %s, want that it was killed", i.State())
	}
}
