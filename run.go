package meshlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

const (
	startTimeout = 10 * time.Second // for Consul to answer
	startRetry   = 500 * time.Millisecond
)

// Run serves until ctx ends, such as that of [SignalContext]. It listens, checks that it
// is reached at the address it advertises, registers in Consul, for which it tries 10 s,
// and serves. Then it leaves Consul, accepts calls a little longer, lets running ones end,
// and stops. A handler that does not return although its call was cut off is logged and
// left behind: Run ends by the times of [WithDrain], and some seconds for Consul, whatever
// handlers do. A server runs once.
//
// An outage of Consul after the start never ends Run. It returns nil after an orderly
// stop, even if Consul could not be reached, which is logged.
func (s *Server) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("meshlite: the server has run already: make a new one")
	}
	if s.config.intentions != nil {
		s.config.intentions.Start()
		defer s.config.intentions.Close()
	}
	r := &run{Server: s, served: make(chan error, 1)}
	err := r.start(ctx)
	if err == nil {
		select {
		case err = <-r.served: // nil when somebody has stopped the gRPC server
			r.config.drain = 0 // nobody accepts calls any longer
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil // it was to stop while starting
	}
	r.stop(context.WithoutCancel(ctx))
	return err
}

// SignalContext is for the main function of a server. Its context ends with SIGTERM or
// SIGINT, for an orderly stop; a second signal ends the process at once.
func SignalContext() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx
}

// run is one run of a server.
type run struct {
	*Server
	listener net.Listener
	admin    *admin.Server
	// healthOnly is the plaintext listener for Consul's check, nil without one.
	healthOnly    *grpc.Server
	healthAddress net.Addr
	served        chan error // what Serve has returned
	deadline      time.Time  // for Consul to answer
	leases        []catalog.Lease
	follows       []func() // end what is followed of the other replicas

	published  atomic.Pointer[[]catalog.Lease] // leases, for the admin page
	startError atomic.Pointer[error]           // the last one before a name was registered
}

func (r *run) start(ctx context.Context) error {
	r.deadline = time.Now().Add(startTimeout)
	host, err := r.host(ctx)
	if err != nil {
		return err
	}
	address := r.config.listen
	if port := r.config.listenPort(); address == "" || port != "" {
		address = net.JoinHostPort(host, cmp.Or(port, "0"))
	}
	if r.listener, err = r.listen(r.listenOption(), address); err != nil {
		return err
	}
	if err := r.serveMetrics(host); err != nil {
		r.listener.Close()
		return err
	}
	if err := r.serveHealth(); err != nil {
		r.listener.Close()
		return err
	}
	r.serve()
	listening := r.listener.Addr()
	r.address.Store(&listening)
	go func() { r.served <- r.GRPC().Serve(r.listener) }()
	if address, err = r.advertised(host); err != nil {
		return err
	}
	r.followReplicas(address)
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	for _, registration := range r.config.registrations {
		if err := r.register(ctx, registration, address); err != nil {
			return err
		}
		r.publish()
	}
	close(r.ready)
	return nil
}

// warmUp waits until "" is serving, which it is at once unless SetServing has set it to
// false. The time for Consul to answer begins when it ends.
func (r *run) warmUp(ctx context.Context) error {
	select {
	case <-r.warm:
		return nil
	default:
	}
	defer func() { r.deadline = time.Now().Add(startTimeout) }()
	select {
	case <-r.warm:
		return nil
	case err := <-r.served:
		return r.ended(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ended is why Serve has ended by itself.
func (r *run) ended(err error) error {
	if err == nil {
		err = errors.New("the gRPC server was stopped")
	}
	return fmt.Errorf("meshlite: %s: %w", r.config.registrations[0].Service, err)
}

// host is the host part of the advertised address. Consul is asked only when no
// option sets it.
func (r *run) host(ctx context.Context) (string, error) {
	if a := r.config.advertised; a != "" {
		if host, _, err := net.SplitHostPort(a); err == nil {
			return host, nil
		}
		return strings.Trim(a, "[]"), nil
	}
	if host, _, _ := net.SplitHostPort(r.config.listen); host != "" && !net.ParseIP(host).IsUnspecified() {
		return host, nil
	}
	var host string
	err := r.try(ctx, func() (err error) {
		host, err = inTime(ctx, r, "NodeAddress of the directory", r.config.directory.NodeAddress, func(string) {})
		return err
	})
	return host, err
}

// advertised joins host with the advertised port, or the one listened on.
func (r *run) advertised(host string) (string, error) {
	_, port, err := net.SplitHostPort(r.config.advertised)
	if err != nil {
		_, port, err = net.SplitHostPort(r.listener.Addr().String())
	}
	return net.JoinHostPort(host, port), err
}

// try repeats ask until it succeeds, for as long as Consul has to start.
func (r *run) try(ctx context.Context, ask func() error) error {
	for logged := false; ; {
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(refusedError)):
			return fmt.Errorf("meshlite: %s: %w", r.config.registrations[0].Service, err)
		case time.Now().Add(startRetry).After(r.deadline):
			return fmt.Errorf("meshlite: %s did not start within %v: %w", r.config.registrations[0].Service, startTimeout, err)
		}
		r.startError.Store(&err)
		if !logged {
			r.config.log.Warn("cannot start yet: trying again", "for", startTimeout, "error", err)
			logged = true
		}
		select {
		case <-time.After(startRetry):
		case err := <-r.served:
			return r.ended(err)
		case <-ctx.Done():
		}
	}
}

func (r *run) serveMetrics(host string) error {
	if r.config.metrics == "" {
		return nil
	}
	listener, err := r.listen(r.config.metricsBy, r.config.metrics)
	if err != nil {
		return err
	}
	handler, err := r.config.runtime.handler(admin.WithReadiness(r.readiness), admin.WithPprof(),
		admin.WithStats("registrations", func() any { return r.registrations() }), admin.WithHosts(r.hosts(host)...))
	if err != nil {
		listener.Close()
		return err
	}
	if mtls := r.config.identity(); mtls != nil {
		r.admin = admin.ServeTLS(listener, handler, mtls.ServerTLS())
	} else {
		r.admin = admin.Serve(listener, handler)
	}
	return nil
}

// hosts are the names by which the admin pages may be called.
func (r *run) hosts(advertised string) []string {
	machine, _ := os.Hostname()
	listening, _, _ := net.SplitHostPort(r.config.metrics)
	hosts := append([]string{advertised, listening, machine}, r.config.metricsHosts...)
	return slices.DeleteFunc(hosts, func(name string) bool { return name == "" })
}

// healthy is the answer of the health service to "", which Consul asks for.
func (r *run) healthy() error {
	response, err := r.health.Check(context.Background(), &healthv1.HealthCheckRequest{})
	if err == nil && response.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("%s is %v", r.config.registrations[0].Service, response.GetStatus())
	}
	return err
}

// listenOption is the option that says where to listen.
func (r *run) listenOption() string {
	switch {
	case r.config.listen != "":
		return r.config.listenBy
	case r.config.advertised != "":
		return "WithAdvertisedAddress"
	default:
		return "the address of Consul's node"
	}
}

// listen opens an address; option is what named it.
func (r *run) listen(option, address string) (net.Listener, error) {
	listener, err := r.config.runtime.network.Listen(context.Background(), "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, optionError(option, address, "another program listens there: stop it, or take port 0 for a free one")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, optionError(option, address, "this machine has no such address: write one that it has, or, to advertise another than is listened on, add WithListenAddress(\":0\")")
	case err != nil:
		return nil, optionError(option, address, err.Error())
	}
	return listener, nil
}

// register puts the server into Consul under one of its names.
func (r *run) register(ctx context.Context, given catalog.Registration, address string) error {
	metrics := ""
	if r.admin != nil {
		metrics = reachable(r.admin.Addr(), address)
	}
	registration := r.config.registration(given, address, metrics)
	var check *healthCheck
	err := r.try(ctx, func() (err error) {
		if check == nil {
			if err = r.authorized(ctx); err != nil {
				return err
			}
			if check, err = r.findCheck(ctx, given, address); err != nil {
				return err
			}
			check.apply(&registration)
			registration.SelfCheck = func(ctx context.Context) error { return r.selfCheck(ctx, check, given.SelfCheck, address) }
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
		r.config.log.Info("serving", "service", registration.Service, "id", registration.ID, "address", address, "metrics", metrics, "health_check", check.String())
	}
	return err
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

// authorized waits a little for the first intentions: without them all calls are denied.
func (r *run) authorized(ctx context.Context) error {
	if r.config.intentions == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startRetry)
	defer cancel()
	return r.config.intentions.Wait(ctx)
}

// unreached names the option that is missing when a server does not reach itself.
func (r *run) unreached(err error) error {
	if r.config.advertised == "" {
		return fmt.Errorf("the self-check: %w: set WithAdvertisedAddress to where clients reach the server", err)
	}
	return fmt.Errorf("the self-check: %w: if only others reach the server at WithAdvertisedAddress %q, as behind a port mapping, set the SelfCheck of WithRegistration, such as to catalog.NoSelfCheck", err, r.config.advertised)
}

// followReplicas keeps the share up to date until stop, if a limit needs it.
func (r *run) followReplicas(address string) {
	share := r.config.share
	share.mu.Lock()
	share.own = catalog.Instance{Address: address, Weight: max(r.config.registrations[0].Weight, 1)}
	share.mu.Unlock()
	if !r.sharesLimits() {
		return
	}
	builder := r.config.runtime.site(r.config.directory).builder
	for _, name := range r.config.names() {
		update := func(list []catalog.Instance) { share.update(name, list) }
		r.follows = append(r.follows, builder.Follow(catalog.Query{Service: name}, update))
	}
}

// sharesLimits reports whether a limit of a method is divided among the replicas, if
// only while its store is away.
func (r *run) sharesLimits() bool {
	for service, info := range r.GRPC().GetServiceInfo() {
		for _, method := range info.Methods {
			policy := r.config.policies.Call(interceptors.Server, "/"+service+"/"+method.Name).Policy
			for _, rule := range policy.GetRateLimits() {
				if !rule.GetDisabled() && interceptors.Server.On(rule.GetSide(), interceptors.Server) && rule.GetStore() > policyv1.RateLimitStore_RATE_LIMIT_STORE_LOCAL {
					return true
				}
			}
		}
	}
	return false
}

// registrations are what the admin page shows of a server.
type registrations struct {
	Names     []string              `json:"names"`                // all that are to be registered
	Kept      []consul.Registration `json:"kept"`                 // those that are
	LastError string                `json:"last_error,omitempty"` // of those that are not yet
}

// publish makes the leases visible to the admin page.
func (r *run) publish() {
	leases := slices.Clone(r.leases)
	r.published.Store(&leases)
}

// registrations reads the state of each lease whose directory says so.
func (r *run) registrations() registrations {
	page := registrations{Names: r.config.names(), Kept: []consul.Registration{}}
	leases := r.registered()
	for _, lease := range leases {
		if kept, ok := lease.(interface{ Registration() consul.Registration }); ok {
			page.Kept = append(page.Kept, kept.Registration())
		}
	}
	if err := r.startError.Load(); err != nil && len(leases) < len(r.config.registrations) {
		page.LastError = (*err).Error()
	}
	return page
}

func (r *run) registered() []catalog.Lease {
	if leases := r.published.Load(); leases != nil {
		return *leases
	}
	return nil
}

// readiness is the answer of /readyz: the server serves, and its names are registered. An
// outage of Consul later on changes nothing: clients go on with the list that they have.
func (r *run) readiness() error {
	err := r.healthy()
	if n := len(r.registered()); n < len(r.config.registrations) {
		err = errors.Join(err, fmt.Errorf("%d of %d names are registered", n, len(r.config.registrations)))
	}
	return err
}
