package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// lease keeps one registration.
type lease struct {
	directory    *Directory
	registration catalog.Registration
	service      *api.AgentServiceRegistration
	log          *slog.Logger
	token        string // with which it was last registered
	stop         func() // ends what keeps the registration and waits for it

	deregister sync.Once
}

// lease keeps what has just been registered with token.
func (d *Directory) lease(ctx context.Context, r catalog.Registration, service *api.AgentServiceRegistration, token string) *lease {
	l := &lease{directory: d, registration: r, service: service, token: token, log: d.log.With("service", r.Service, "id", r.ID)}
	d.counters.registrations.Add(1)
	d.counters.services.tried(r.Service, l, nil)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	work.Go(func() { l.keep(ctx) })
	if r.TTL > 0 {
		work.Go(func() { l.renew(ctx) })
	}
	l.stop = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		d.counters.registrations.Add(-1)
		d.counters.services.left(r.Service, l)
	})
	return l
}

// keep looks after the registration until ctx ends.
func (l *lease) keep(ctx context.Context) {
	outage := trouble{log: l.log, begins: "registration cannot be kept for now", ends: "registration is kept again"}
	critical := trouble{log: l.log, begins: "Consul calls this instance critical: clients leave it out", ends: "Consul no longer calls this instance critical"}
	for last := ""; ; {
		pause(ctx, jitter(l.directory.heartbeat))
		has, lost, err := l.restore(ctx)
		if ctx.Err() != nil {
			return
		}
		outage.set(err)
		l.directory.counters.services.tried(l.registration.Service, l, err)
		if has != nil {
			critical.set(criticality(has.Checks))
		}
		if err != nil {
			continue
		}
		if lost != "" {
			l.directory.counters.reregistrations.Add(1)
		}
		// Two that fight over one id would otherwise tell of it for ever.
		if lost != "" && lost != last {
			l.log.Warn("the agent had lost or changed the registration: registered again", "agent", l.directory.address, "what", lost)
		}
		last = lost
	}
}

// restore registers again what the agent no longer knows as it was registered,
// and names it. has is what the agent knew before; nil is nothing, or an error.
func (l *lease) restore(ctx context.Context) (has *registered, lost string, err error) {
	has, err = l.directory.look(ctx, l.registration.ID)
	if err != nil {
		return nil, "", err
	}
	lost = drift(l.service, has)
	// The agent writes to the catalog, states of checks among it, with the token that
	// it was given at the registration.
	token := l.directory.currentToken()
	if lost == "" && token == l.token {
		return has, "", nil
	}
	if err := l.again(ctx, hasCheck(has, l.service.Check)); err != nil {
		return has, lost, err
	}
	if token != l.token {
		l.log.Info("the token has changed: registered again with the new one")
	}
	l.token = token
	return has, lost, nil
}

// criticality is what the checks put out that call an instance critical, of its node
// and of others too; nil is that none does.
func criticality(checks []*healthCheck) error {
	var outputs []string
	for _, c := range checks {
		if c != nil && c.Status == api.HealthCritical {
			outputs = append(outputs, fmt.Sprintf("%s: %s", c.Name, cmp.Or(brief(said(c)), "no output")))
		}
	}
	if outputs == nil {
		return nil
	}
	return errors.New(strings.Join(outputs, "; "))
}

// again registers again: as passing, after a self-check, where the check is gone, and
// otherwise in the state that the check has.
func (l *lease) again(ctx context.Context, checked bool) error {
	if checked {
		return l.directory.write(ctx, l.service)
	}
	if err := l.directory.checkItself(ctx, l.registration); err != nil {
		return err
	}
	return l.directory.announce(ctx, l.registration, l.service)
}

// renew tells the agent three times in each TTL what the self-check finds.
func (l *lease) renew(ctx context.Context) {
	r := l.registration
	mute := trouble{log: l.log, begins: "the agent cannot be told of the health for now", ends: "the agent is told of the health again"}
	third := r.TTL / 3
	ticker := time.NewTicker(third)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		found := within(ctx, third, func(ctx context.Context) error { return selfCheck(ctx, r) })
		err := within(ctx, third, func(ctx context.Context) error { return l.directory.tell(ctx, r, found) })
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			err = l.directory.explain(err, fmt.Sprintf("service:write on %q", r.Service))
		}
		mute.set(err)
	}
}

func within(ctx context.Context, d time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return do(ctx)
}

// trouble logs its beginning and its end, not its course.
type trouble struct {
	log          *slog.Logger
	begins, ends string
	on           bool
}

func (t *trouble) set(err error) {
	switch {
	case err != nil && !t.on:
		t.log.Warn(t.begins, "error", err)
	case err == nil && t.on:
		t.log.Info(t.ends)
	}
	t.on = err != nil
}

// Deregister stops the heartbeat, which would undo it, then deregisters.
func (l *lease) Deregister(ctx context.Context) error {
	l.stop()
	var err error
	l.deregister.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if err = l.leave(ctx); err != nil && ctx.Err() == nil {
			// A connection that was kept from before a restart of the agent breaks
			// with the first request on it.
			err = l.leave(ctx)
		}
		if err != nil {
			err = l.directory.explain(err, fmt.Sprintf("service:write on %q", l.registration.Service))
		}
	})
	return err
}

// leave deregisters. What the agent has forgotten is gone.
func (l *lease) leave(ctx context.Context) error {
	err := l.directory.client.Agent().ServiceDeregisterOpts(l.registration.ID, (&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil
	}
	return err
}

// jitter spreads d by 20 % either way.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5)
}
