package meshlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	startTimeout   = 10 * time.Second // for Consul to answer
	startRetry     = 500 * time.Millisecond
	deregisterTime = 3 * time.Second
)

// Run serves until ctx ends or the process gets SIGTERM or SIGINT. It listens,
// checks that it can be called at the address it advertises, registers in
// Consul, which it keeps trying for 10 s, and serves. Then it leaves Consul,
// accepts calls a little longer, lets running ones end, and stops. A server runs
// once.
//
// An outage of Consul after the start never ends Run. It answers nil after an
// orderly stop, even if Consul could not be told, which is logged.
func (s *Server) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer s.grpc.Stop()
	r := &run{Server: s, served: make(chan error, 1)}
	err := r.start(ctx)
	if err == nil {
		select {
		case err = <-r.served:
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
	served   chan error // what Serve has answered
	leases   []catalog.Lease
}

func (r *run) start(ctx context.Context) error {
	host, err := r.host(ctx)
	if err != nil {
		return err
	}
	preset := net.JoinHostPort(host, cmp.Or(r.config.port, "0"))
	if r.listener, err = listen("WithListenAddress", r.config.listen, preset); err != nil {
		return err
	}
	if err := r.serveMetrics(); err != nil {
		r.listener.Close()
		return err
	}
	for _, name := range r.services() {
		r.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	go func() { r.served <- r.grpc.Serve(r.listener) }()
	address, err := r.advertised(host)
	if err != nil {
		return err
	}
	for _, name := range r.config.names {
		if err := r.register(ctx, name, address); err != nil {
			return err
		}
	}
	return nil
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
		host, err = r.config.directory.NodeAddress(ctx)
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
	deadline := time.Now().Add(startTimeout)
	for said := false; ; {
		err := ask()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if time.Now().Add(startRetry).After(deadline) {
			return fmt.Errorf("meshlite: %s did not start within %v: %w", r.config.names[0], startTimeout, err)
		}
		if !said {
			r.config.log.Warn("cannot start yet: trying again", "for", startTimeout, "error", err)
			said = true
		}
		select {
		case <-time.After(startRetry):
		case <-ctx.Done():
		}
	}
}

func (r *run) serveMetrics() error {
	if r.config.metrics == metricsOff {
		return nil
	}
	listener, err := listen("WithMetricsAddress", r.config.metrics, defaultMetricsAddress)
	if err != nil {
		return err
	}
	address := listener.Addr().(*net.TCPAddr)
	handler, err := r.config.runtime.handler(address.IP.IsLoopback(), r.healthy)
	if err != nil {
		listener.Close()
		return err
	}
	r.admin = admin.Serve(listener, handler)
	return nil
}

// healthy is the answer of /healthz: what Consul is told, too.
func (r *run) healthy() error {
	response, err := r.health.Check(context.Background(), &healthv1.HealthCheckRequest{})
	if err == nil && response.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("%s is %v", r.config.names[0], response.GetStatus())
	}
	return err
}

// register puts the server into Consul under one of its names.
func (r *run) register(ctx context.Context, name, address string) error {
	metadata := map[string]string{}
	for key, value := range r.config.metadata {
		metadata[key] = value
	}
	if r.admin != nil {
		metadata["metrics_address"] = reachable(r.admin.Addr(), address)
	}
	registration := catalog.Registration{
		Instance: catalog.Instance{
			ID:       name + "-" + strings.Map(hyphenate, address),
			Service:  name,
			Address:  address,
			Tags:     r.config.tags,
			Metadata: metadata,
			Weight:   r.config.weight,
		},
		WarningWeight:   r.config.warningWeight,
		CheckAddress:    r.config.check,
		CheckTLS:        !r.config.plaintext,
		DeregisterAfter: r.config.deregisterAfter,
		SelfCheck:       func(ctx context.Context) error { return r.selfCheck(ctx, address) },
	}
	err := r.try(ctx, func() error {
		lease, err := r.config.directory.Register(ctx, registration)
		if err == nil {
			r.leases = append(r.leases, lease)
		}
		return err
	})
	if err == nil {
		r.config.log.Info("serving", "service", name, "id", registration.ID, "address", address, "metrics", metadata["metrics_address"])
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

// hyphenate keeps what Consul's ids and DNS have in common.
func hyphenate(c rune) rune {
	if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
		return c
	}
	return '-'
}

// selfCheck asks the server for its health at the address that it advertises.
func (r *run) selfCheck(ctx context.Context, address string) error {
	if !r.config.plaintext {
		// A server cannot prove itself to itself without a client's certificate.
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("%w: set WithAdvertisedAddress", err)
		}
		return conn.Close()
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	response, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("%w: set WithAdvertisedAddress", err)
	}
	if response.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("it says it is %v", response.GetStatus())
	}
	return nil
}

// stop leaves Consul first, so that no new client comes, and gives those that
// have not heard of it yet the drain time.
func (r *run) stop(ctx context.Context) {
	if r.listener == nil {
		return
	}
	r.health.Shutdown()
	registered := len(r.leases) > 0
	r.deregister(ctx)
	if registered {
		time.Sleep(r.config.drain)
	}
	timer := time.AfterFunc(r.config.stopTimeout, r.grpc.Stop)
	r.grpc.GracefulStop()
	timer.Stop()
	if r.admin != nil {
		r.admin.Close()
	}
}

func (r *run) deregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, deregisterTime)
	defer cancel()
	for _, lease := range r.leases {
		if err := lease.Deregister(ctx); err != nil {
			r.config.log.Warn("could not leave Consul, which will find out by its check", "error", err)
		}
	}
}

// listen opens an address that an option has named, or the preset one.
func listen(option, address, preset string) (net.Listener, error) {
	address = cmp.Or(address, preset)
	listener, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, optionError(option, address, "another program listens there: stop it, or take port 0 for a free one")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, optionError(option, address, "this machine has no such address: tell which one to listen on by WithListenAddress")
	case err != nil:
		return nil, optionError(option, address, err.Error())
	}
	return listener, nil
}
