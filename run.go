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
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	startTimeout = 10 * time.Second // for Consul to answer
	startRetry   = 500 * time.Millisecond
)

// Run serves until ctx ends or the process gets SIGTERM or SIGINT. It listens,
// checks that it is reached at the address it advertises, registers in
// Consul, which it keeps trying for 10 s, and serves. Then it leaves Consul,
// accepts calls a little longer, lets running ones end, and stops. A handler that
// does not return although its call was cut off is logged and left behind: Run ends
// by the times of [WithDrain], and some seconds for Consul, whatever handlers do. A
// server runs once.
//
// An outage of Consul after the start never ends Run. It answers nil after an
// orderly stop, even if Consul could not be told, which is logged.
func (s *Server) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("meshlite: the server has run already: make a new one")
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	r := &run{Server: s, served: make(chan error, 1)}
	err := r.start(ctx)
	if err == nil {
		select {
		case err = <-r.served: // nil when somebody has stopped the gRPC server
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil // told to stop while starting
	}
	// A second signal ends the process at once.
	stop()
	r.stop(context.WithoutCancel(ctx))
	return err
}

// run is one run of a server.
type run struct {
	*Server
	listener net.Listener
	admin    *admin.Server
	// healthOnly is the plaintext listener for Consul's check, nil without one.
	healthOnly    *grpc.Server
	healthAddress net.Addr
	served        chan error // what Serve has answered
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
	preset := net.JoinHostPort(host, cmp.Or(r.config.port, "0"))
	if r.listener, err = listen(r.listenOption(), cmp.Or(r.config.listen, preset)); err != nil {
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
	go func() { r.served <- r.grpc.Serve(r.listener) }()
	address, err := r.advertised(host)
	if err != nil {
		return err
	}
	r.followReplicas(address)
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	for _, name := range r.config.names {
		if err := r.register(ctx, name, address); err != nil {
			return err
		}
		r.publish()
	}
	return nil
}

// warmUp waits until the server says that it can be called, which it says at once
// unless SetServing has said otherwise. Consul then has its time from here on.
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
	return fmt.Errorf("meshlite: %s: %w", r.config.names[0], err)
}

// host is the host part of the advertised address. Consul is asked only when no
// option tells it.
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

// advertised joins host with the port that was told, or the one listened on.
func (r *run) advertised(host string) (string, error) {
	_, port, err := net.SplitHostPort(r.config.advertised)
	if err != nil {
		_, port, err = net.SplitHostPort(r.listener.Addr().String())
	}
	return net.JoinHostPort(host, port), err
}

// try repeats ask until it succeeds, for as long as Consul has to start.
func (r *run) try(ctx context.Context, ask func() error) error {
	for said := false; ; {
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(refusedError)):
			return fmt.Errorf("meshlite: %s: %w", r.config.names[0], err)
		case time.Now().Add(startRetry).After(r.deadline):
			return fmt.Errorf("meshlite: %s did not start within %v: %w", r.config.names[0], startTimeout, err)
		}
		r.startError.Store(&err)
		if !said {
			r.config.log.Warn("cannot start yet: trying again", "for", startTimeout, "error", err)
			said = true
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
	if r.config.metrics == metricsOff {
		return nil
	}
	listener, err := listen("WithMetricsAddress", cmp.Or(r.config.metrics, defaultMetricsAddress))
	if err != nil {
		return err
	}
	address := listener.Addr().(*net.TCPAddr)
	handler, err := r.config.runtime.handler(address.IP.IsLoopback(),
		admin.WithReadiness(r.ready), admin.WithStats("registrations", func() any { return r.registrations() }), admin.WithHosts(r.hosts(host)...))
	if err != nil {
		listener.Close()
		return err
	}
	r.admin = admin.Serve(listener, handler)
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
		err = fmt.Errorf("%s is %v", r.config.names[0], response.GetStatus())
	}
	return err
}

// listenOption is the option that has told where to listen.
func (r *run) listenOption() string {
	switch {
	case r.config.listen != "":
		return "WithListenAddress"
	case r.config.port != "":
		return "WithPort"
	case r.config.advertised != "":
		return "WithAdvertisedAddress"
	default:
		return "the address of Consul's node"
	}
}

// listen opens an address; option is what named it.
func listen(option, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
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
