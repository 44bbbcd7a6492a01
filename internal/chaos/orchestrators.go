package chaos

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

// What orchestrators do to instances: in their order, by their signals, and with the times of
// the files in deploy/, those that only pass by divided by ten.
const (
	preStop       = 500 * time.Millisecond // of Kubernetes, before SIGTERM
	minReady      = 300 * time.Millisecond // of Kubernetes, before the next pod
	shutdownDelay = 200 * time.Millisecond // of Nomad, between its deregistration and SIGTERM

	// Until SIGKILL. They bound a drain, whose length is real.
	timeoutStop = 30 * time.Second         // of systemd
	gracePeriod = 30*time.Second - preStop // of Kubernetes
	killTimeout = 25 * time.Second         // of Nomad

	doubled = 2 * size
	// window is how long calls are counted for shares.
	window = time.Second
	// shareFilled is the part of an equal share from which a new instance has it.
	shareFilled = 0.7
)

// nomadService is what Nomad registers its tasks as, and nomadTarget calls those that are live.
const (
	nomadService = "nomad-" + service
	nomadTarget  = nomadService + "?tag=live"
)

// orchestratorRows are among rows.
func orchestratorRows() []row {
	return []row{{
		name:   "rolling-systemd",
		does:   "every instance is restarted at its address, as systemd does: SIGTERM, SIGKILL after 30 s, a start, and the next when it is ready",
		inject: restartUnits,
		wanted: "all are called again", healed: allCalledSince,
		aim: aim{heal: 2 * time.Second},
	}, {
		name:   "rolling-kubernetes",
		does:   "every instance is replaced, as Kubernetes does: a new one ready first, then 0.5 s of preStop, SIGTERM, SIGKILL after the grace period",
		inject: replacePods,
		wanted: "all new ones are called", healed: allCalledSince,
		aim: aim{heal: 2 * time.Second},
	}, {
		name:    "rolling-nomad",
		does:    "every instance is replaced, as Nomad does: a canary that is promoted, then out of Consul, 0.2 s of shutdown_delay, SIGTERM, SIGKILL after kill_timeout; calls go by Nomad's registrations",
		needs:   needs{target: nomadTarget},
		prepare: registerTasks,
		inject:  replaceTasks,
		wanted:  "all new ones are called", healed: allCalledSince,
		aim: aim{heal: 2 * time.Second},
	}, {
		name:   "doubled",
		does:   fmt.Sprintf("an autoscaler adds as many instances as there are, at once, and takes them away when all %d have their share", doubled),
		inject: double,
		wanted: fmt.Sprintf("each of the new ones answers %.0f %% of an equal share or more", 100*shareFilled), healed: newHaveTheirShare,
		aim: aim{heal: 20 * time.Second},
	}}
}

func allCalledSince(_ context.Context, s *scene) bool { return s.called(s.ended) }

// terminate ends the oldest instance by SIGTERM. It is an error if SIGKILL must follow.
func terminate(ctx context.Context, s *scene, patience time.Duration) (*shop.Instance, error) {
	i := s.living[0]
	s.touched[i.Address] = true
	s.oldest()
	i.Stop(patience)
	s.say("%s has ended: %s", i.ID, i.State())
	if i.State() != "exit status 0" {
		return nil, fmt.Errorf("%s did not end by itself within %v: %s", i.ID, patience, i.State())
	}
	return i, ctx.Err()
}

func restartUnits(ctx context.Context, s *scene) error {
	for range size {
		stopped, err := terminate(ctx, s, timeoutStop)
		if err != nil {
			return err
		}
		started, err := s.shop.StartAt(ctx, service, stopped.Address, stopped.Args()...)
		if err != nil {
			return err
		}
		s.living = append(s.living, started)
		s.ended = time.Now()
		s.say("%s is started again", started.ID)
	}
	return nil
}

func replacePods(ctx context.Context, s *scene) error {
	for range size {
		if _, err := s.start(ctx); err != nil {
			return err
		}
		s.ended = time.Now()
		// The pod is available after minReadySeconds; the old one is then asked to end.
		if err := pause(ctx, minReady+preStop); err != nil {
			return err
		}
		if _, err := terminate(ctx, s, gracePeriod); err != nil {
			return err
		}
	}
	return nil
}

// registerTasks makes Nomad's registrations, and then a steady load.
func registerTasks(ctx context.Context, s *scene) error {
	for _, i := range s.living {
		if err := registerTask(ctx, s, i, "live"); err != nil {
			return err
		}
	}
	if err := awaitTasks(ctx, s, size); err != nil {
		return err
	}
	return steady(ctx, s)
}

func nomadID(i *shop.Instance) string { return "_nomad-task-" + i.ID }

// registerTask makes or changes the registration that Nomad has of an instance.
func registerTask(ctx context.Context, s *scene, i *shop.Instance, tag string) error {
	host, text, err := net.SplitHostPort(i.Address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	s.beside = append(s.beside, nomadID(i))
	return s.agent.put(ctx, "/v1/agent/service/register", map[string]any{
		"ID": nomadID(i), "Name": nomadService, "Address": host, "Port": port, "Tags": []string{tag},
		"Check": map[string]any{"CheckID": nomadID(i) + "-check", "GRPC": i.Address, "Interval": "1s", "Timeout": "1s"},
	})
}

// awaitTasks waits until so many tasks pass Nomad's checks.
func awaitTasks(ctx context.Context, s *scene, n int) error {
	_, err := await(ctx, wholePatience, func(ctx context.Context) bool {
		passing, err := s.agent.passing(ctx, nomadService)
		return err == nil && len(passing) == n
	})
	if err != nil {
		return fmt.Errorf("not all %d tasks pass the check of Nomad: %w", n, err)
	}
	return nil
}

// publishTask registers one task more than there are without it, and waits until it passes.
func publishTask(ctx context.Context, s *scene, i *shop.Instance, tag string) error {
	if err := registerTask(ctx, s, i, tag); err != nil {
		return err
	}
	return awaitTasks(ctx, s, size+1)
}

func replaceTasks(ctx context.Context, s *scene) error {
	for range size {
		canary, err := s.start(ctx)
		if err != nil {
			return err
		}
		if err := publishTask(ctx, s, canary, "canary"); err != nil {
			return err
		}
		if s.customer.tally.dials(canary.Address) > 0 {
			return fmt.Errorf("%s is a canary, and was called before it was promoted", canary.ID)
		}
		if err := publishTask(ctx, s, canary, "live"); err != nil {
			return err
		}
		s.ended = time.Now()
		if err := s.agent.deregister(ctx, nomadID(s.living[0])); err != nil {
			return err
		}
		if err := pause(ctx, shutdownDelay); err != nil {
			return err
		}
		if _, err := terminate(ctx, s, killTimeout); err != nil {
			return err
		}
	}
	return nil
}

// double starts as many instances as there are, at once. restore takes the surplus away.
func double(ctx context.Context, s *scene) error {
	s.say("an autoscaler goes from %d to %d", size, doubled)
	started := make(chan error, doubled-size)
	instances := make(chan *shop.Instance, doubled-size)
	for range doubled - size {
		go func() {
			i, err := s.shop.Start(ctx, service)
			instances <- i
			started <- err
		}()
	}
	var failed error
	for range doubled - size {
		failed = cmp.Or(failed, <-started)
		if i := <-instances; i != nil {
			s.living = append(s.living, i)
		}
	}
	s.ended = time.Now()
	return failed
}

// newHaveTheirShare counts the calls of a window, again and again.
func newHaveTheirShare(_ context.Context, s *scene) bool {
	if time.Since(s.countedAt) < window {
		return false
	}
	before, now := s.counted, s.customer.tally.answeredBy()
	s.counted, s.countedAt = now, time.Now()
	if before == nil {
		return false
	}
	return haveTheirShare(before, now, addressesOf(s.living[size:]), len(s.living))
}

// haveTheirShare reports whether each of the new instances has answered enough of the calls
// between two counts, of which n instances have a part.
func haveTheirShare(before, now map[string]uint64, added []string, n int) bool {
	var all uint64
	for address, count := range now {
		all += count - before[address]
	}
	for _, address := range added {
		if float64(now[address]-before[address]) < shareFilled*float64(all)/float64(n) {
			return false
		}
	}
	return all > 0
}

func addressesOf(instances []*shop.Instance) []string {
	var all []string
	for _, i := range instances {
		all = append(all, i.Address)
	}
	return all
}
