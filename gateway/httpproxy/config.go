// Package httpproxy puts plain HTTP/1.1 services behind the gateway: any service of the
// directory, or a fixed list of URLs, balanced by the policies of package balancer.
//
//	web, err := httpproxy.New(httpproxy.Config{
//		Name: "web", Prefix: "/web/", Service: "web", Follow: builder.Follow,
//		Policy: "least_request",
//	})
//	mux.Handle("/web/", web)
//
// The policy must be registered: import its package.
//
// An instance that cannot be connected to is out of rotation until a connection succeeds, which
// is tried in the background. Failed connections, broken ones, timeouts and the answers 502,
// 503 and 504 count as failures and eject an instance, as in Envoy's detection of gateway
// failures; other errors count as answers, and are compared with those of the other instances.
//
// A request moves on to another instance while it was not sent: its connection failed. One that
// was sent is retried if its method is idempotent (RFC 9110, section 9.2.2), its body is small or
// not read yet, no part of an answer has come, and the retry budget has something left. A POST
// is sent once. (net/http itself repeats a POST without a body that has an Idempotency-Key, on a
// new connection to the same instance, if the old one was closed meanwhile.)
//
// Bodies are streamed, and WebSocket passes: both count as requests in flight until they end.
// Upgrades to other protocols are not forwarded. Redirects and cookies are not rewritten.
//
// With [Config.FollowRoutes] requests go where the discovery chain of the service says: its routes
// match the path that the service would see, so without the prefix of the site. The choice is made
// once, outside of Wrap.
package httpproxy

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Config is one site. Name, Prefix and one of Service and URLs are needed.
type Config struct {
	// Name is for errors, logs and metrics.
	Name string
	// Prefix of the paths that belong to the site, such as "/web/" or "/". It is stripped before
	// a request is forwarded, and sent as X-Forwarded-Prefix, unless KeepPrefix is set.
	Prefix     string
	KeepPrefix bool

	// Service is the instances in the directory that match it, as Follow reports them, such as
	// (*resolver.Builder).Follow. Its Scheme is http, or https with HTTPS, unless it is given.
	Service catalog.Query
	Follow  func(catalog.Query, func([]catalog.Instance)) (stop func())
	// FollowRoutes takes the place of Follow for requests that go by the discovery chain of
	// Service, such as (*resolver.Builder).FollowRoutes. See [Destination] for a cache.
	FollowRoutes func(catalog.Query, func(routes.Snapshot)) (stop func())
	// HTTPS has the instances of Service called by TLS.
	HTTPS bool
	// URLs are the instances of a site without a directory: "http://127.0.0.1:8000". A path is
	// put before that of each request.
	URLs []string
	// TLS is for instances by HTTPS. Without a ServerName it is the host of an instance.
	TLS *tls.Config
	// InstanceHost sends the address of the instance as Host. Default: the host that the caller
	// has asked for.
	InstanceHost bool

	// Policy is the name of a balancing policy. Default: "least_request".
	Policy string
	// PolicyConfig is the policy's config as in a service config, with the
	// settings of package balancer.
	PolicyConfig json.RawMessage
	// Region and Zone are where this process runs; empty is unknown.
	Region, Zone string

	// MaxInFlight is how many requests are forwarded at once; more are refused with 503.
	// Default: 1024.
	MaxInFlight int
	// MaxConnections to one instance: further requests to it wait for one. Default: 256.
	MaxConnections int
	// MaxIdleConnections to one instance are kept for IdleTimeout. Defaults: MaxConnections,
	// 90 s.
	MaxIdleConnections int
	IdleTimeout        time.Duration
	// ConnectTimeout is for a connection, TLS included. Default: 1 s.
	ConnectTimeout time.Duration
	// HeaderTimeout is the time from the end of a request to the header of its answer.
	// Default: 30 s.
	HeaderTimeout time.Duration
	// BodyTimeout is the longest pause in the body of an answer. Upgraded connections may
	// pause. Default: 5 min.
	BodyTimeout time.Duration
	// Attempts is how many instances a request is sent to at most. Default: 3; 1 is no retry.
	Attempts int
	// RetryRatio is how many retries there may be for each request, over some time: up to 1.
	// Requests that were not sent move on besides. Default: 0.2.
	RetryRatio float64
	// MaxReplay is the largest body, in bytes, that is held in memory to be sent again.
	// Default: 65536.
	MaxReplay int64

	// Client is the address of a request's client, for X-Forwarded-For. Default: the peer.
	Client func(*http.Request) netip.Addr
	// Header returns what is set on every forwarded request, such as the verified identity of
	// its caller. Of the request itself, X-Forwarded-*, Forwarded, X-Real-Ip, X-Meshlite-* and
	// others of their kind, in any spelling that servers take for the same, are never passed on.
	Header func(*http.Request) http.Header
	// OnRoute, if not nil, is called with where the chain sends a request, before it is sent.
	OnRoute func(*http.Request, route.Choice)
	// Wrap adds to the transport that balances, such as a cache.
	Wrap func(http.RoundTripper) http.RoundTripper

	// Log gets ejections, and instances that cannot be reached. Default: slog.Default().
	Log *slog.Logger
}

const (
	defaultPolicy = "least_request"
	maxTimeout    = time.Hour
	maxAttempts   = 10
)

// set replaces zeros by the defaults.
func (c *Config) set() {
	or(&c.Policy, defaultPolicy)
	scheme := "http"
	if c.HTTPS {
		scheme = "https"
	}
	or(&c.Service.Scheme, scheme)
	or(&c.MaxInFlight, 1024)
	or(&c.MaxConnections, 256)
	or(&c.MaxIdleConnections, max(c.MaxConnections, 1))
	or(&c.IdleTimeout, 90*time.Second)
	or(&c.ConnectTimeout, time.Second)
	or(&c.HeaderTimeout, 30*time.Second)
	or(&c.BodyTimeout, 5*time.Minute)
	or(&c.Attempts, 3)
	or(&c.RetryRatio, 0.2)
	or(&c.MaxReplay, 64<<10)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Client == nil {
		c.Client = peerOf
	}
}

func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// peerOf is the address at the other end of the connection.
func peerOf(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap()
}

// check returns an error that names the field, its value and what to write.
func (c *Config) check() error {
	for _, wrong := range []error{
		c.checkSite(),
		within("MaxInFlight", c.MaxInFlight, 1, 1_000_000),
		within("MaxConnections", c.MaxConnections, 1, 1_000_000),
		within("MaxIdleConnections", c.MaxIdleConnections, 1, c.MaxConnections),
		within("IdleTimeout", c.IdleTimeout, time.Millisecond, maxTimeout),
		within("ConnectTimeout", c.ConnectTimeout, time.Millisecond, maxTimeout),
		within("HeaderTimeout", c.HeaderTimeout, time.Millisecond, maxTimeout),
		within("BodyTimeout", c.BodyTimeout, time.Millisecond, 24*maxTimeout),
		within("Attempts", c.Attempts, 1, maxAttempts),
		within("RetryRatio", c.RetryRatio, 0.001, 1),
		within("MaxReplay", c.MaxReplay, 1, 16<<20),
	} {
		if wrong != nil {
			return fmt.Errorf("httpproxy: site %q: %w", c.Name, wrong)
		}
	}
	return nil
}

func (c *Config) checkSite() error {
	switch {
	case c.Name == "":
		return errors.New("no Name: write one, such as the service's")
	case !strings.HasPrefix(c.Prefix, "/") || !strings.HasSuffix(c.Prefix, "/"):
		return fmt.Errorf("the Prefix %q does not begin and end with a slash: write one such as %q", c.Prefix, "/"+strings.Trim(c.Prefix, "/")+"/")
	case (c.Service.Service == "") == (len(c.URLs) == 0):
		return errors.New("write either Service or URLs")
	case c.Service.Service != "" && c.Follow == nil && c.FollowRoutes == nil:
		return errors.New("a Service needs Follow or FollowRoutes: give that of a resolver's Builder")
	case c.Follow != nil && c.FollowRoutes != nil:
		return errors.New("it has both Follow and FollowRoutes: write one")
	}
	return nil
}

func within[T int | int64 | float64 | time.Duration](field string, value, least, most T) error {
	if value >= least && value <= most {
		return nil
	}
	return fmt.Errorf("%s %v is not in %v to %v", field, value, least, most)
}

// target is how an instance is called.
type target struct {
	scheme, host string
	path         string // before that of a request, without a slash at its end
}

// parseURLs returns the instances of a fixed list.
func parseURLs(texts []string) ([]catalog.Instance, map[string]target, error) {
	var list []catalog.Instance
	targets := map[string]target{}
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			return nil, nil, fmt.Errorf("URL %q: %w", text, err)
		}
		port, known := map[string]string{"http": "80", "https": "443"}[u.Scheme]
		if !known || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, nil, fmt.Errorf("URL %q: write it as http://host:port or https://host:port, with a path if needed", u.Redacted())
		}
		if u.Port() != "" {
			port = u.Port()
		}
		address := net.JoinHostPort(u.Hostname(), port)
		if _, twice := targets[address]; twice {
			return nil, nil, fmt.Errorf("URL %q: %s is listed twice", text, address)
		}
		targets[address] = target{u.Scheme, u.Host, strings.TrimSuffix(u.EscapedPath(), "/")}
		list = append(list, catalog.Instance{ID: address, Address: address, Weight: 1})
	}
	return list, targets, nil
}

// newSet makes the set of instances.
func (c *Config) newSet() (*routes.Set, error) {
	set, err := routes.NewSet(c.Policy, c.PolicyConfig, routes.WithLogger(c.Log.With("site", c.Name)))
	if err != nil {
		return nil, fmt.Errorf("httpproxy: site %q: %w", c.Name, err)
	}
	set.SetZone(c.Region, c.Zone)
	return set, nil
}
