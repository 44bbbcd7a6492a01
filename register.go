package meshlite

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// registration is what Consul is told of the server under one of its names.
func (c *serverConfig) registration(name, address, metrics string) catalog.Registration {
	metadata := map[string]string{}
	maps.Copy(metadata, c.metadata)
	if metrics != "" {
		metadata["metrics_address"] = metrics
		// A process under several names is scraped under the first of them, once.
		if name != c.names[0] {
			metadata["metrics_service"] = c.names[0]
		}
	}
	return catalog.Registration{
		Instance: catalog.Instance{
			ID:       catalog.InstanceID(name, address),
			Service:  name,
			Address:  address,
			Tags:     c.tags,
			Metadata: metadata,
			Weight:   c.weight,
			Region:   c.region,
			Zone:     c.zone,
		},
		WarningWeight:   c.warningWeight,
		DeregisterAfter: c.deregisterAfter,
		TTL:             c.ttl,
	}
}

// register puts the server into Consul under one of its names.
func (r *run) register(ctx context.Context, name, address string) error {
	metrics := ""
	if r.admin != nil {
		metrics = reachable(r.admin.Addr(), address)
	}
	registration := r.config.registration(name, address, metrics)
	var check *healthCheck
	err := r.try(ctx, func() (err error) {
		if check == nil {
			if check, err = r.findCheck(ctx, name, address); err != nil {
				return err
			}
			check.apply(&registration)
			registration.SelfCheck = func(ctx context.Context) error { return r.selfCheck(ctx, check, address) }
		}
		lease, err := inTime(ctx, r, "Register of the directory", func(ctx context.Context) (catalog.Lease, error) {
			return r.config.directory.Register(ctx, registration)
		}, r.giveUp)
		if err == nil {
			r.leases = append(r.leases, lease)
		}
		return err
	})
	if err == nil {
		r.config.log.Info("serving", "service", name, "id", registration.ID, "address", address, "metrics", metrics, "health_check", check.String())
	}
	return err
}

// giveUp gives back a lease that came when the start had failed.
func (r *run) giveUp(late catalog.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), deregisterTime)
	defer cancel()
	if err := late.Deregister(ctx); err != nil {
		r.config.log.Warn("could not leave Consul, which will find out by its check", "service", r.config.names[0], "error", err)
	}
}

// inTime asks the directory until the time to start is over, or a second longer than ctx
// lasts. What has not returned by then is left running, and what it returns later is passed
// to late.
func inTime[T any](ctx context.Context, r *run, what string, ask func(context.Context) (T, error), late func(T)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers, over, begun := make(chan answer), make(chan struct{}), time.Now()
	go func() {
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("%s has panicked: %v", what, p)
			}
			select {
			case answers <- a:
			case <-over:
				if a.err == nil {
					late(a.value)
				}
			}
		}()
		a.value, a.err = ask(ctx)
	}()
	timer := time.NewTimer(time.Until(r.deadline) + closeTime)
	defer timer.Stop()
	defer context.AfterFunc(ctx, func() { timer.Reset(closeTime) })()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-timer.C:
		close(over)
		r.config.log.Error("does not end: it is left running", "what", what, "since", begun)
		var none T
		return none, fmt.Errorf("%s does not return", what)
	}
}

// reachable is where a listener is reached: at the host that is advertised when it
// listens on all of them.
func reachable(listener net.Addr, advertised string) string {
	tcp, ok := listener.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return listener.String()
	}
	host, _, _ := net.SplitHostPort(advertised)
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// unreached names the option that is missing when a server does not reach itself.
func (r *run) unreached(err error) error {
	switch {
	case r.config.selfCheck != "":
		return fmt.Errorf("the self-check: %w: is WithSelfCheckAddress %q an address of this server?", err, r.config.selfCheck)
	case r.config.advertised == "":
		return fmt.Errorf("the self-check: %w: set WithAdvertisedAddress to where clients reach the server", err)
	default:
		return fmt.Errorf("the self-check: %w: if only others reach the server at WithAdvertisedAddress %q, as behind a port mapping, set WithSelfCheckAddress to where it reaches itself, or to \"off\"", err, r.config.advertised)
	}
}
