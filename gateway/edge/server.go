package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lastChance is for how long handlers may return after their requests were cut off.
const lastChance = time.Second

// ServerConfig bounds what the clients of a [Server] can take. The zero value has the defaults.
type ServerConfig struct {
	// TLS serves HTTP/1.1 and HTTP/2 over TLS 1.2 or later. Nil serves both without TLS.
	TLS *tls.Config

	// HeaderTimeout is the time for a TLS handshake, and for the header of a request. Default: 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout closes connections without requests. Default: 90 s.
	IdleTimeout time.Duration
	// MinRate is how fast a body must come, in bytes a second, while the handler waits for it.
	// Default: 512.
	MinRate int64
	// Grace is how far a body may fall behind MinRate. Default: 10 s.
	Grace time.Duration
	// WriteStall is for how long a client may take nothing of an answer. Default: 30 s.
	WriteStall time.Duration

	// MaxHeader bounds the header of a request, in bytes; net/http adds 4 KiB. Default: 32 KiB.
	MaxHeader int
	// MaxConns bounds the connections. When there is no room, the one that has been without a
	// request for longest is closed; if all have one, the new one is. Default: 10,000.
	MaxConns int
	// MaxConnsPerAddress bounds those of one address, an IPv6 address by its /64. Default: 256.
	MaxConnsPerAddress int
	// TrustedProxies are networks whose addresses MaxConnsPerAddress does not bound.
	TrustedProxies []netip.Prefix
	// MaxStreams bounds the requests at a time on one HTTP/2 connection. Default: 100. A client
	// that resets streams so fast that four times as many wait for it is disconnected.
	MaxStreams int

	// Drain is for how long the server accepts requests after it was asked to stop, so that
	// others notice first. Default: 1 s. Negative is not at all.
	Drain time.Duration
	// StopTimeout is how long running requests have to end after that, before they are cut off.
	// Default: 10 s. Negative is not at all.
	StopTimeout time.Duration

	// Logger logs when serving begins and ends, and with debug what connections fail by.
	// Default: slog.Default().
	Logger *slog.Logger
}

// Server serves a handler over HTTP/1.1 and HTTP/2. It is safe for concurrent use, and a
// prometheus.Collector.
type Server struct {
	config   ServerConfig
	handler  http.Handler
	http     *http.Server
	conns    *conns
	metrics  *serverMetrics
	log      *slog.Logger
	base     context.Context // of all requests
	cutOff   context.CancelFunc
	used     atomic.Bool
	ready    atomic.Bool
	draining atomic.Bool
	running  atomic.Int64  // requests, upgraded connections included
	ended    chan struct{} // has a value when running has become 0
}

// NewServer checks config. Its errors name the field.
func NewServer(handler http.Handler, config ServerConfig) (*Server, error) {
	if handler == nil {
		return nil, errors.New("edge: the handler of a server is nil")
	}
	if err := config.finish(); err != nil {
		return nil, fmt.Errorf("edge: ServerConfig.%w", err)
	}
	s := &Server{config: config, handler: handler, log: config.Logger, ended: make(chan struct{}, 1)}
	s.base, s.cutOff = context.WithCancel(context.Background())
	s.conns = newConns(&s.config)
	s.metrics = newServerMetrics(s.conns)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(config.TLS != nil)
	protocols.SetUnencryptedHTTP2(config.TLS == nil)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         config.TLS,
		ReadHeaderTimeout: config.HeaderTimeout,
		IdleTimeout:       config.IdleTimeout,
		MaxHeaderBytes:    config.MaxHeader,
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          config.MaxStreams,
			MaxReceiveBufferPerConnection: 256 << 10,
			MaxReceiveBufferPerStream:     128 << 10,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              config.WriteStall,
		},
		ConnState:   s.conns.changed,
		BaseContext: func(net.Listener) context.Context { return s.base },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// finish checks c and sets the defaults.
func (c *ServerConfig) finish() error {
	defaults := []struct {
		name  string
		field *time.Duration
		value time.Duration
	}{
		{"HeaderTimeout", &c.HeaderTimeout, 10 * time.Second},
		{"IdleTimeout", &c.IdleTimeout, 90 * time.Second},
		{"Grace", &c.Grace, 10 * time.Second},
		{"WriteStall", &c.WriteStall, 30 * time.Second},
	}
	for _, d := range defaults {
		if *d.field < 0 {
			return fmt.Errorf("%s: %v: write a duration above 0, or 0 for %v", d.name, *d.field, d.value)
		}
		*d.field = cmp.Or(*d.field, d.value)
	}
	counts := []struct {
		name  string
		field *int
		value int
	}{
		{"MaxHeader", &c.MaxHeader, 32 << 10},
		{"MaxConns", &c.MaxConns, 10_000},
		{"MaxConnsPerAddress", &c.MaxConnsPerAddress, 256},
		{"MaxStreams", &c.MaxStreams, 100},
	}
	for _, d := range counts {
		if *d.field < 0 {
			return fmt.Errorf("%s: %d: write 1 or more, or 0 for %d", d.name, *d.field, d.value)
		}
		*d.field = cmp.Or(*d.field, d.value)
	}
	if c.MinRate < 0 {
		return wrong("MinRate", "%d: write 1 or more, or 0 for 512", c.MinRate)
	}
	c.MinRate = cmp.Or(c.MinRate, 512)
	c.Drain = max(cmp.Or(c.Drain, time.Second), 0)
	c.StopTimeout = max(cmp.Or(c.StopTimeout, 10*time.Second), 0)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	for _, prefix := range c.TrustedProxies {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return wrong("TrustedProxies", "%v is no network: write one such as 10.0.0.0/8 or fd00::/8", prefix)
		}
	}
	if c.TLS == nil {
		return nil
	}
	c.TLS = c.TLS.Clone()
	switch {
	case c.TLS.MinVersion == 0:
		c.TLS.MinVersion = tls.VersionTLS12
	case c.TLS.MinVersion < tls.VersionTLS12:
		return wrong("TLS", "MinVersion is below TLS 1.2: leave it out")
	}
	if len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil && c.TLS.GetConfigForClient == nil {
		return wrong("TLS", "it has no certificate: set Certificates or GetCertificate")
	}
	return nil
}

// Readiness is nil while the server accepts requests and is not to stop: what a load balancer
// or Consul asks for.
func (s *Server) Readiness() error {
	switch {
	case s.ready.Load():
		return nil
	case s.draining.Load():
		return errors.New("the server is stopping")
	default:
		return errors.New("the server does not serve yet")
	}
}

// Serve serves listener, which it owns, until ctx ends. Then it reports that it is not ready,
// accepts requests for [ServerConfig.Drain] and asks their clients to connect elsewhere
// ("Connection: close", GOAWAY), stops listening, lets running requests end within
// [ServerConfig.StopTimeout], cuts off the rest, and gives handlers a second to return; those
// that do not are logged and left behind. It returns nil after that. A server serves once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if s.used.Swap(true) {
		listener.Close()
		return errors.New("edge: the server has served already: make a new one")
	}
	defer s.cutOff()
	served := make(chan error, 1)
	go func() {
		tracked := s.conns.listener(listener)
		if s.config.TLS != nil {
			served <- s.http.ServeTLS(tracked, "", "")
		} else {
			served <- s.http.Serve(tracked)
		}
	}()
	s.ready.Store(true)
	s.log.Info("serving HTTP", "address", listener.Addr().String(), "tls", s.config.TLS != nil)
	select {
	case err := <-served:
		s.ready.Store(false)
		s.http.Close()
		s.conns.closeAll()
		return fmt.Errorf("edge: %w", err)
	case <-ctx.Done():
		s.draining.Store(true)
		s.ready.Store(false)
	}
	s.stop(served)
	return nil
}

func (s *Server) stop(served chan error) {
	s.log.Info("stopping HTTP", "drain", s.config.Drain, "stop_timeout", s.config.StopTimeout)
	drained := time.NewTimer(s.config.Drain)
	defer drained.Stop()
	stopped := false
	select {
	case <-drained.C:
	case <-served: // the listener has failed
		stopped = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.config.StopTimeout)
	defer cancel()
	orderly := s.http.Shutdown(ctx) == nil && s.wait(ctx)
	if !orderly {
		s.cutOff()
		ctx, cancel := context.WithTimeout(context.Background(), lastChance)
		defer cancel()
		s.http.Close()
		s.conns.closeAll()
		if !s.wait(ctx) {
			s.log.Warn("handlers did not return and are left behind", "count", s.running.Load())
		}
	}
	s.conns.closeAll()
	if !stopped {
		<-served
	}
	s.log.Info("stopped HTTP", "orderly", orderly)
}

// wait waits until no request is running. It returns false when ctx ends before.
func (s *Server) wait(ctx context.Context) bool {
	for s.running.Load() > 0 {
		select {
		case <-s.ended:
		case <-ctx.Done():
			return s.running.Load() == 0
		}
	}
	return true
}

// serve is one request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.running.Add(1)
	defer func() {
		if s.running.Add(-1) == 0 {
			select {
			case s.ended <- struct{}{}:
			default:
			}
		}
	}()
	watch := newWatch(s, w, r)
	defer watch.end()
	watched := &watch.writer
	s.handler.ServeHTTP(watched, r)
	watched.begin() // net/http sends the header of an answer without a body
}

// Describe is for Prometheus.
func (s *Server) Describe(ch chan<- *prometheus.Desc) { s.metrics.Describe(ch) }

// Collect is for Prometheus.
func (s *Server) Collect(ch chan<- prometheus.Metric) { s.metrics.Collect(ch) }

// serverMetrics are those of connections.
type serverMetrics struct {
	conns   *conns
	cut     *prometheus.CounterVec
	open    *prometheus.Desc
	refused *prometheus.Desc
}

func newServerMetrics(c *conns) *serverMetrics {
	m := &serverMetrics{
		conns:   c,
		cut:     prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "meshlite", Subsystem: "edge", Name: "cut_total", Help: "Requests whose body came too slowly, and answers that their clients did not take."}, []string{"what"}),
		open:    prometheus.NewDesc("meshlite_edge_connections", "Connections that are open.", nil, nil),
		refused: prometheus.NewDesc("meshlite_edge_refused_connections_total", "Connections that were closed at once as there were too many of their address or in all, or without a request to make room for others.", []string{"reason"}, nil),
	}
	m.cut.WithLabelValues("body")
	m.cut.WithLabelValues("answer")
	return m
}

func (m *serverMetrics) Describe(ch chan<- *prometheus.Desc) {
	m.cut.Describe(ch)
	ch <- m.open
	ch <- m.refused
}

func (m *serverMetrics) Collect(ch chan<- prometheus.Metric) {
	m.cut.Collect(ch)
	open, refused := m.conns.counts()
	ch <- prometheus.MustNewConstMetric(m.open, prometheus.GaugeValue, float64(open))
	for i, reason := range connReasons {
		ch <- prometheus.MustNewConstMetric(m.refused, prometheus.CounterValue, float64(refused[i]), reason)
	}
}

func trusts(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}
