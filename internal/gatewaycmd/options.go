package gatewaycmd

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/cli"
)

// Options are the flags and arguments.
type Options struct {
	Services    []string // arguments, such as "catalog=pkg.Service"
	HTTP        []string // such as "web=/web/"
	HTTPPolicy  string   // by which sites are balanced; empty is that of [Options.policy]
	HTTPCache   uint64   // bytes of answers that are kept for each site; 0 is no cache
	Descriptors []string // such as "catalog=catalog.binpb"

	Agent    string       // host:port; empty is the one that the environment names
	Backends cli.Security // of the channels to gRPC services

	Listen, MetricsAddress string // host:port
	TLSCert, TLSKey        string // files
	ClientCA               string // file of the authorities of clients
	TrustedProxies         []string
	CORSOrigins            []string
	Limits                 []string
	JWKS                   string // file or URL
	JWTIssuer, JWTAudience string
	RequireSubject         bool
	Headers                []string // of requests, that gRPC backends get
	ShowInternal           bool

	Register           bool
	Name, Advertise    string // in Consul
	Drain, StopTimeout time.Duration
	Format             cli.Format

	listenSet, metricsSet string // the variable that sets the address; "" is the flag
	region, zone          string
	level                 slog.Level // of what is logged
}

// policies are those for plain HTTP.
var policies = []string{"least_request", "peak_ewma", "round_robin"}

// policy is how a site is balanced. Instances of a fixed list are alike, and take turns.
func (o Options) policy(s site) string {
	switch {
	case o.HTTPPolicy != "":
		return o.HTTPPolicy
	case len(s.urls) > 0:
		return "round_robin"
	default:
		return "least_request"
	}
}

// settings are options that were checked.
type settings struct {
	Options
	services    []service
	sites       []site
	descriptors map[string][]string
	proxies     []netip.Prefix
	limits      []edge.Limit
	tls         *tls.Config  // nil is plaintext
	certificate *certificate // of tls
}

// check reads all options, or returns which one is wrong, and the fix.
func (o Options) check() (*settings, error) {
	s := &settings{Options: o}
	var errs [6]error
	s.services, errs[0] = parseServices(o.Services)
	s.sites, errs[1] = parseSites(o.HTTP)
	s.descriptors, errs[2] = parseDescriptors(o.Descriptors, s.services)
	s.proxies, errs[3] = parsePrefixes(o.TrustedProxies)
	s.limits, errs[4] = parseLimits(o.Limits)
	errs[5] = s.readTLS()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return s, o.checkRest(s)
}

func (o Options) checkRest(s *settings) error {
	switch {
	case len(s.services)+len(s.sites) == 0:
		return cli.Usagef("nothing is let out: name a service in Consul, such as catalog, or a plain HTTP one by --http web=/web/")
	case o.JWKS == "" && o.JWTIssuer+o.JWTAudience != "":
		return cli.Usagef("--jwt-issuer %q, --jwt-audience %q: without keys no token can be verified: give --jwt-jwks, too", o.JWTIssuer, o.JWTAudience)
	case o.JWKS != "" && (o.JWTIssuer == "" || o.JWTAudience == ""):
		return cli.Usagef("--jwt-issuer %q, --jwt-audience %q: without both, tokens for others would be taken: give both with --jwt-jwks", o.JWTIssuer, o.JWTAudience)
	case o.RequireSubject && o.JWKS == "" && o.ClientCA == "":
		return cli.Usagef("--require-subject: nobody can prove who they are: give --jwt-jwks or --client-ca, too")
	case !o.Register && o.Advertise != "":
		return cli.Usagef("--advertise %q without --register: leave it out, or register", o.Advertise)
	case o.HTTPPolicy != "" && !slices.Contains(policies, o.HTTPPolicy):
		return cli.Usagef("--http-policy %q: write %s", o.HTTPPolicy, strings.Join(policies, ", "))
	case o.Drain < 0 || o.StopTimeout < 0:
		return cli.Usagef("--drain %v, --stop-timeout %v: write durations from 0 on", o.Drain, o.StopTimeout)
	}
	for _, address := range []struct {
		setBy, value string
		optional     bool
	}{{o.listenBy(), o.Listen, false}, {o.metricsBy(), o.MetricsAddress, true}, {"--advertise", o.Advertise, true}} {
		if _, _, err := net.SplitHostPort(address.value); err != nil && !(address.optional && address.value == "") {
			return cli.Usagef("%s %q: write host:port, such as 127.0.0.1:8080", address.setBy, address.value)
		}
	}
	return nil
}

// readTLS makes the settings that callers meet, none for plaintext.
func (s *settings) readTLS() error {
	switch {
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return cli.Usagef("--tls-cert %q, --tls-key %q: one needs the other", s.TLSCert, s.TLSKey)
	case s.TLSCert == "" && s.ClientCA != "":
		return cli.Usagef("--client-ca %q: certificates of clients need TLS: give --tls-cert and --tls-key, too", s.ClientCA)
	case s.TLSCert == "":
		return nil
	}
	var err error
	if s.certificate, err = loadCertificate(s.TLSCert, s.TLSKey); err != nil {
		return cli.Usagef("--tls-cert %q, --tls-key %q: %w", s.TLSCert, s.TLSKey, err)
	}
	s.tls = &tls.Config{GetCertificate: s.certificate.get, MinVersion: tls.VersionTLS12}
	if s.ClientCA == "" {
		return nil
	}
	text, err := os.ReadFile(s.ClientCA)
	if err != nil {
		return cli.Usagef("--client-ca: %w", err)
	}
	s.tls.ClientCAs, s.tls.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !s.tls.ClientCAs.AppendCertsFromPEM(text) {
		return cli.Usagef("--client-ca %q holds no certificate: give a PEM file", s.ClientCA)
	}
	return nil
}

// edge is what stands around the gateway. verifier and tracer may be nil.
func (s *settings) edge(verifier edge.Verifier, tracer edge.Tracer, log *slog.Logger) edge.Config {
	return edge.Config{
		TrustedProxies: s.proxies, Limits: s.limits, Headers: s.Headers, RequireSubject: s.RequireSubject,
		CORS: edge.CORS{Origins: s.CORSOrigins}, Logger: log, Verifier: verifier, Tracer: tracer,
	}
}
