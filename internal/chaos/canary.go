package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

// The faults of an instance that gets its first calls by `meshlite routes shift --guard`, which
// is a process of its own, as at an operator's terminal.

const (
	shiftedTo = 20 // percent of the calls to v2
	// guardFor is longer than a guard needs that shifts back.
	guardFor = 30 * time.Second
)

// canaryRows are among rows.
func canaryRows() []row {
	shift := fmt.Sprintf("`meshlite routes shift` gives %d %% of the calls to a new instance, and guards it", shiftedTo)
	return []row{{
		name: "canary-failing", short: true, lasts: guardFor, lastsShort: guardFor,
		does:    shift + ": it answers INTERNAL at once",
		needs:   needs{page: true},
		prepare: func(ctx context.Context, s *scene) error { return startCanary(ctx, s, &failer{failure: outOfOrder}) },
		inject:  shiftToFailing,
		wanted:  "the guard has shifted back, and no call goes there", healed: shiftedBack,
		aim: aim{heal: time.Second, failed: 200, quiet: true},
	}, {
		name: "canary-healthy", lasts: 10 * time.Second, lastsShort: 4 * time.Second,
		does:    shift + ": it is well",
		needs:   needs{page: true},
		prepare: func(ctx context.Context, s *scene) error { return startCanary(ctx, s, wellFailer()) },
		inject:  shiftToHealthy,
		wanted:  "the guard has ended, and the instance has its share", healed: canaryStays,
		aim: aim{heal: time.Second},
	}}
}

// wellFailer answers from the start.
func wellFailer() *failer {
	f := &failer{failure: outOfOrder}
	f.mend()
	return f
}

// startCanary starts f, which is all of v2, without calls.
func startCanary(ctx context.Context, s *scene, f *failer) error {
	if err := f.start(s.consul.Address, f); err != nil {
		return err
	}
	s.failing = f
	s.touched[f.address] = true
	if _, err := await(ctx, wholePatience, s.failerPasses); err != nil {
		return fmt.Errorf("the new instance does not pass in Consul: %w", err)
	}
	if err := route(ctx, s, 0, arms{one: slices.Clone(s.living), two: {{ID: "the new instance", Address: f.address}}}); err != nil {
		return err
	}
	s.customer.begin(ctx)
	since := time.Now()
	if _, err := await(ctx, wholePatience, func(context.Context) bool { return s.called(since) && s.customer.share(one) == 1 }); err != nil {
		return fmt.Errorf("not all calls go to the instances of %s: %w", one, err)
	}
	return pause(ctx, calm)
}

// shiftGuarded runs the command and returns what it says.
func shiftGuarded(ctx context.Context, s *scene) (said string, err error) {
	program, err := shop.Program(s.programs, "meshlite")
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, program, "routes", "shift", service, fmt.Sprintf("%s=%d", two, shiftedTo), "--apply",
		"--guard", s.lasts.String(), "--http-addr", s.consul.Address, "--client", s.customer.page.Addr().String())
	command.Env = []string{} // no variable names another agent
	out, err := command.CombinedOutput()
	s.ended = time.Now()
	for line := range strings.Lines(string(out)) {
		s.say("meshlite: %s", strings.TrimSpace(line))
	}
	return string(out), err
}

func shiftToFailing(ctx context.Context, s *scene) error {
	said, err := shiftGuarded(ctx, s)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 && strings.Contains(said, "shifted back: "+two) {
		return nil
	}
	return fmt.Errorf("the guard has not shifted back (%v): %s", err, said)
}

func shiftToHealthy(ctx context.Context, s *scene) error {
	said, err := shiftGuarded(ctx, s)
	if err == nil && !strings.Contains(said, "no arm has failed more often") {
		err = errors.New("no arm was judged")
	}
	if err != nil {
		return fmt.Errorf("the guard of a healthy instance: %w: %s", err, said)
	}
	return nil
}

// shiftedBack reports whether no call goes to v2.
func shiftedBack(_ context.Context, s *scene) bool {
	return s.customer.share(two) == 0 && s.customer.share(one) == 1 && !s.customer.tally.answers(s.failing.address, s.ended)
}

// canaryStays reports whether v2 has what was shifted to it.
func canaryStays(_ context.Context, s *scene) bool {
	return nearPercent(s.customer.share(two), shiftedTo) && s.customer.tally.answers(s.failing.address, s.ended)
}
