package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	defaultCheckInterval = 5 * time.Second
	defaultCheckTimeout  = 2 * time.Second
	minDeregisterAfter   = time.Minute
)

// Register registers r with a gRPC health check and keeps it registered until
// the lease is given back. Every 5 s, give or take 20 %, it asks the agent
// whether it still knows r, and registers again when not: an agent that was
// restarted empty has forgotten everything.
func (d *Directory) Register(ctx context.Context, r catalog.Registration) (catalog.Lease, error) {
	service, err := registration(r)
	if err != nil {
		return nil, err
	}
	if err := d.register(ctx, r, service); err != nil {
		return nil, err
	}
	l := &lease{directory: d, registration: r, service: service, done: make(chan struct{})}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = sync.OnceFunc(func() { cancel(); <-l.done })
	go l.keep(keeping)
	return l, nil
}

// registration checks r and puts it into Consul's words.
func registration(r catalog.Registration) (*api.AgentServiceRegistration, error) {
	if r.Service == "" {
		return nil, errors.New("consul: Service is empty: name the service to register")
	}
	if r.ID == "" {
		return nil, errors.New("consul: ID is empty: give each instance its own")
	}
	host, portText, err := net.SplitHostPort(r.Address)
	port, portErr := strconv.Atoi(portText)
	if err != nil || portErr != nil || host == "" || port < 1 || port > 65535 {
		return nil, fmt.Errorf("consul: Address %q: write host:port with the port that is listened on", r.Address)
	}
	if r.DeregisterAfter != 0 && r.DeregisterAfter < minDeregisterAfter {
		return nil, fmt.Errorf("consul: DeregisterAfter %v is below %v, which Consul would silently make of it: write at least %v",
			r.DeregisterAfter, minDeregisterAfter, minDeregisterAfter)
	}
	if r.CheckInterval != 0 && r.CheckInterval < time.Second {
		return nil, fmt.Errorf("consul: CheckInterval %v: Consul checks at most once a second: write at least 1s", r.CheckInterval)
	}
	check := &api.AgentServiceCheck{
		Name:       "gRPC health",
		GRPC:       cmp.Or(r.CheckAddress, r.Address),
		GRPCUseTLS: r.CheckTLS,
		Interval:   cmp.Or(r.CheckInterval, defaultCheckInterval).String(),
		Timeout:    cmp.Or(r.CheckTimeout, defaultCheckTimeout).String(),
		// Otherwise the check starts critical and runs first after a random part
		// of its interval; the self-check has already said that all is well.
		Status: api.HealthPassing,
	}
	if r.DeregisterAfter != 0 {
		check.DeregisterCriticalServiceAfter = r.DeregisterAfter.String()
	}
	return &api.AgentServiceRegistration{
		ID: r.ID, Name: r.Service, Address: host, Port: port,
		Tags: r.Tags, Meta: r.Metadata,
		Weights: &api.AgentWeights{Passing: int(max(r.Weight, 1)), Warning: int(r.WarningWeight)},
		Check:   check,
	}, nil
}

func (d *Directory) register(ctx context.Context, r catalog.Registration, service *api.AgentServiceRegistration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if r.SelfCheck != nil {
		if err := r.SelfCheck(ctx); err != nil {
			return fmt.Errorf("%s cannot be reached at the address it would advertise, %s: %w", r.Service, r.Address, err)
		}
	}
	options := api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx)
	if err := d.client.Agent().ServiceRegisterOpts(service, options); err != nil {
		// The agent may have taken it although the answer did not come.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = d.client.Agent().ServiceDeregisterOpts(service.ID, (&api.QueryOptions{}).WithContext(ctx))
		return d.explain(err, fmt.Sprintf("service:write on %q", r.Service))
	}
	return nil
}

// lease keeps one registration.
type lease struct {
	directory    *Directory
	registration catalog.Registration
	service      *api.AgentServiceRegistration
	done         chan struct{}
	stop         func() // ends keep and waits for it

	deregister sync.Once
}

// keep looks after the registration until ctx ends.
func (l *lease) keep(ctx context.Context) {
	defer close(l.done)
	log := l.directory.log.With("service", l.registration.Service, "id", l.registration.ID)
	healthy := true
	for {
		pause(ctx, jitter(l.directory.heartbeat))
		if ctx.Err() != nil {
			return
		}
		again, err := l.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && healthy:
			log.Warn("registration cannot be kept for now", "error", err)
		case err == nil && again:
			log.Warn("the agent had forgotten the service: registered again", "agent", l.directory.address)
		case err == nil && !healthy:
			log.Info("registration is kept again")
		}
		healthy = err == nil
	}
}

// renew registers again what the agent no longer knows.
func (l *lease) renew(ctx context.Context) (again bool, err error) {
	known, err := l.directory.knows(ctx, l.registration.ID)
	if err != nil || known {
		return false, err
	}
	return true, l.directory.register(ctx, l.registration, l.service)
}

func (d *Directory) knows(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, _, err := d.client.Agent().Service(id, (&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, d.explain(err, "service:read")
	}
	return true, nil
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
