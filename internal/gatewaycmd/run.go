package gatewaycmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/gateway/httpcache"
	"github.com/meshlite-go/meshlite/gateway/httpproxy"
	"github.com/meshlite-go/meshlite/gateway/jwt"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// ballastBytes are allocated and never touched, so they take address space and no memory. A
// gateway's heap is a few MiB, of which each request makes some KiB garbage: without ballast the
// collector would run dozens of times a second.
const ballastBytes = 32 << 20

// Run serves until ctx ends, which is no error. What is wrong with an option is an error
// before anything is opened.
func Run(ctx context.Context, o Options, streams cli.Streams) error {
	s, err := o.check()
	if err != nil {
		return err
	}
	r := &run{settings: s, streams: streams, log: s.logger(streams)}
	defer r.close()
	ballast := make([]byte, ballastBytes)
	defer runtime.KeepAlive(ballast)
	if err := r.open(ctx); err != nil {
		return err
	}
	return r.serve(ctx)
}

// logger writes to stderr, as the output is for people or programs.
func (s *settings) logger(streams cli.Streams) *slog.Logger {
	if s.Format == cli.JSON {
		return slog.New(slog.NewJSONHandler(streams.Err, s.handling()))
	}
	return slog.New(slog.NewTextHandler(streams.Err, s.handling()))
}

// run is one run of a gateway.
type run struct {
	*settings
	streams   cli.Streams
	log       *slog.Logger
	directory *consul.Directory
	builder   *resolver.Builder // of plain HTTP services
	runtime   *meshlite.Runtime
	edge      *edge.Edge
	gateway   *gateway.Gateway
	server    *edge.Server
	admin     *admin.Server         // nil without one
	identity  *identity.Credentials // of the gateway itself, nil without one
	tracing   *tracing.Tracing      // nil if the environment asks for none
	sites     []gateway.Site
	listener  net.Listener
	closers   []func()
}

func (r *run) close() {
	for i := len(r.closers) - 1; i >= 0; i-- {
		r.closers[i]()
	}
}

func (r *run) onClose(f func()) { r.closers = append(r.closers, f) }

// open makes all parts. Nothing waits for Consul or for a service.
func (r *run) open(ctx context.Context) error {
	if s := r.certificate; s != nil {
		s.log = r.log
	}
	if err := r.openTracing(ctx); err != nil {
		return &cli.Error{Code: cli.ExitUsage, Err: err}
	}
	// The channels of a gateway call for others: only the subject that it forwards is an
	// identity, by which answers are kept apart.
	callers, err := caller.New(caller.WithForwardedSubject())
	if err != nil {
		return err
	}
	if r.runtime, err = meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: callers}); err != nil {
		return err
	}
	if r.directory, err = consul.New(consul.Config{Address: r.Agent, Logger: r.log}); err != nil {
		return err
	}
	r.onClose(r.directory.Close)
	if err := r.openEdge(); err != nil {
		return &cli.Error{Code: cli.ExitUsage, Err: err}
	}
	if err := r.openGateway(); err != nil {
		return err
	}
	r.server, err = edge.NewServer(r.ready(r.gateway), edge.ServerConfig{
		TLS: r.tls, TrustedProxies: r.proxies, Logger: r.log, Drain: orNever(r.Drain), StopTimeout: orNever(r.StopTimeout),
	})
	if err != nil {
		return err
	}
	return errors.Join(r.runtime.Registry().Register(r.gateway), r.runtime.Registry().Register(r.server))
}

func (r *run) openEdge() error {
	var verifier edge.Verifier // an interface, which is to stay nil
	if r.JWKS != "" {
		tokens, err := jwt.New(jwt.Config{Keys: r.JWKS, Issuer: r.JWTIssuer, Audience: []string{r.JWTAudience}, Logger: r.log})
		if err != nil {
			return fmt.Errorf("--jwt-jwks %q, --jwt-issuer %q, --jwt-audience %q: %w", r.JWKS, r.JWTIssuer, r.JWTAudience, err)
		}
		r.onClose(tokens.Close)
		verifier = tokens
	}
	var tracer edge.Tracer // likewise
	if r.tracing != nil {
		tracer = r.tracing
	}
	var err error
	r.edge, err = edge.New(r.settings.edge(verifier, tracer, r.log))
	return err
}

// orNever is d as the edge has it: 0 there is the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (r *run) openGateway() error {
	config := gateway.Config{Edge: r.edge, Sites: map[string]http.Handler{}, Logger: r.log}
	config.Transcode.ShowInternal = r.ShowInternal
	security, end, err := r.Backends.Credentials(r.directory, r.log)
	if err != nil {
		return err
	}
	r.onClose(end)
	r.identity, _ = security.(*identity.Credentials)
	for _, s := range r.services {
		service, err := r.dial(s, security)
		if err != nil {
			return err
		}
		r.onClose(service.Close)
		config.Services = append(config.Services, service)
	}
	r.builder = resolver.NewBuilder(r.directory, resolver.WithLogger(r.log))
	for _, s := range r.settings.sites {
		site, err := r.site(s)
		if err != nil {
			return &cli.Error{Code: cli.ExitUsage, Err: err}
		}
		r.sites = append(r.sites, site)
		config.Sites[s.prefix] = site
	}
	if r.gateway, err = gateway.New(config); err != nil {
		return &cli.Error{Code: cli.ExitUsage, Err: err}
	}
	r.onClose(r.gateway.Close)
	return nil
}

func (r *run) dial(s service, security credentials.TransportCredentials) (gateway.Service, error) {
	options := []meshlite.ClientOption{meshlite.WithTransportCredentials(security), meshlite.WithRuntime(r.runtime), meshlite.WithLogger(r.log)}
	if r.tracing != nil {
		options = append(options, meshlite.WithTracing(r.tracing))
	}
	service, err := gateway.Dial("consul:///"+s.name, r.directory, options...)
	if err != nil {
		return gateway.Service{}, err
	}
	service.Offer, service.KeepRenderings = s.offer(), true // no interceptor is added here
	if files := r.descriptors[s.name]; len(files) > 0 {
		service.Contract = contract.Files(files...)
	}
	return service, nil
}

// site balances over a plain HTTP service. Each has a cache of its own: without their prefixes,
// two sites may have the same URL.
func (r *run) site(s site) (made gateway.Site, err error) {
	config := httpproxy.Config{Name: s.name, Prefix: s.prefix, URLs: s.urls, Policy: r.policy(s), Region: r.region, Zone: r.zone, Log: r.log, Header: r.forwarded}
	isRouted := len(s.urls) == 0
	if isRouted {
		off, err := r.runtime.RoutingDisabled(r.log)
		if err != nil {
			return made, err
		}
		config.Service, isRouted = catalog.Query{Service: s.name}, !off
		if isRouted {
			config.FollowRoutes, config.OnRoute = r.builder.FollowRoutes, named
		} else {
			config.Follow = r.builder.Follow
		}
	}
	if r.HTTPCache > 0 {
		cached := httpcache.Config{MaxBytes: r.HTTPCache}
		if isRouted {
			cached.Key = httpproxy.Destination
		}
		cache, err := httpcache.New(cached)
		if err != nil {
			return made, fmt.Errorf("--http-cache %d: %w", r.HTTPCache, err)
		}
		r.onClose(cache.Close)
		config.Wrap, made.Cache = cache.Transport, cache
	}
	if made.Proxy, err = httpproxy.New(config); err != nil {
		return made, err
	}
	r.onClose(made.Proxy.Close)
	if isRouted {
		r.runtime.AddRoutes(made.Proxy.Routes())
	}
	return made, nil
}

// named names where a request goes for the log.
func named(request *http.Request, choice route.Choice) {
	edge.SetArm(request.Context(), choice.Route.Name, choice.Arm.Name)
}

// forwarded are the headers in which a plain HTTP service reads who calls.
func (r *run) forwarded(request *http.Request) http.Header {
	header := http.Header{}
	r.edge.Forward(request, header)
	return header
}

// ready answers /readyz as not ready from the start of a drain on.
func (r *run) ready(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Path != "/readyz" {
			next.ServeHTTP(w, request)
			return
		}
		if err := r.server.Readiness(); err != nil {
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		r.gateway.ServeHTTP(w, request)
	})
}

// serve serves, registers and announces the gateway. When ctx ends it leaves Consul first.
func (r *run) serve(ctx context.Context) error {
	var err error
	if r.listener, err = listen(r.listenBy(), r.Listen); err != nil {
		return err
	}
	if err := r.serveAdmin(); err != nil {
		r.listener.Close()
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(serving, r.listener) }()
	leave, err := r.enter(ctx)
	if err == nil {
		err = r.announce()
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-served:
			served <- nil // it is over
		}
	}
	leave()
	stop()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // it was to stop while starting
	}
	return errors.Join(err, <-served)
}

func listen(setBy, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %q: another program listens there: stop it, or take another port; 0 is a free one", setBy, address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", setBy, address, err)
	}
	return listener, nil
}
