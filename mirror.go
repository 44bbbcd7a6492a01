package meshlite

import (
	"errors"
	"fmt"
	"net/url"

	"google.golang.org/grpc"
	grpcresolver "google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/routing"
	"github.com/meshlite-go/meshlite/resolver"
)

// errNoDirectory is why a channel whose target names no service copies nothing.
var errNoDirectory = errors.New("the target of a mirror rule is a service in a directory, and this channel has none: write its own target as consul:///service")

// addMirror has the channel copy calls where a policy says so. It opens with the channel's resolver.
func (c *clientConfig) addMirror(of resolver.Target, shown, serviceConfig string) (err error) {
	dial := func(target string) (mirror.Conn, error) {
		if of.Service == "" {
			return nil, errNoDirectory
		}
		return c.dialMirror(of, serviceConfig, target)
	}
	if c.mirror, err = mirror.New(dial, mirror.WithLogger(c.log), mirror.WithChannel(shown)); err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	if of.Service == "" {
		c.mirror.Open() // to report the reason: it has nothing to close
	}
	return nil
}

// dialMirror makes the channel to the target of a rule of a channel to of: with the directory, the
// credentials and the dial options of that channel. It has connections and measurements of its own,
// and no other concern than routing.
func (c *clientConfig) dialMirror(of resolver.Target, serviceConfig, target string) (*grpc.ClientConn, error) {
	service, subset, err := interceptors.MirrorTarget(target)
	if err != nil {
		return nil, fmt.Errorf("meshlite: mirror.target %w", err)
	}
	var concerns []interceptors.Concern
	var router *routes.Router
	switch {
	case !c.isOff(interceptors.Routing):
		if router, err = routes.NewRouter(routes.WithLogger(c.log)); err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
		routed, err := routing.New(router)
		if err != nil {
			return nil, fmt.Errorf("meshlite: %w", err)
		}
		concerns = append(concerns, routed)
	case subset != "":
		return nil, fmt.Errorf("meshlite: mirror.target %q: %s turns routing off, and only a chain has subsets", target, envDisable)
	}
	chain, err := interceptors.Chain(interceptors.Client, c.policies, concerns...)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	found := append(c.resolverOptions(serviceConfig, router), resolver.WithChainSubset(subset))
	options := append(c.grpcOptions(serviceConfig), grpc.WithNoProxy(), grpc.WithResolvers(c.runtime.site(c.directory).mirrors.With(found...)))
	options = append(append(options, c.dialOptions...), grpc.WithDisableRetry())
	conn, err := grpc.NewClient(mirrorTarget(of, service), append(options, chain.DialOptions()...)...)
	if err != nil {
		return nil, fmt.Errorf("meshlite: mirror.target %q: %w", target, err)
	}
	return conn, nil
}

// mirrorTarget is where copies of calls to of go: to service by the same agent and in the same
// datacenters. Tags and filter are of the service that they were written for.
func mirrorTarget(of resolver.Target, service string) string {
	query := url.Values{"dc": of.Datacenters}
	set := func(key, value string) {
		if value != "" {
			query.Set(key, value)
		}
	}
	set("near", of.Near)
	set("consistency", of.Consistency.String())
	if service == of.Service {
		query["tag"] = of.Tags
		set("filter", of.Filter)
	}
	target := url.URL{Scheme: resolver.Scheme, Host: of.Agent, Path: "/" + service, RawQuery: query.Encode()}
	return target.String()
}

// Build starts the resolver of the channel, and its mirror, which lives as long: gRPC closes a
// resolver with its channel, or when that becomes idle.
func (c *channel) Build(target grpcresolver.Target, cc grpcresolver.ClientConn, opts grpcresolver.BuildOptions) (grpcresolver.Resolver, error) {
	found, err := c.Builder.Build(target, cc, opts)
	if err != nil {
		return nil, err
	}
	c.mirror.Open()
	return mirroring{found, c.mirror}, nil
}

// mirroring is the resolver of a channel that mirrors.
type mirroring struct {
	grpcresolver.Resolver
	mirror *mirror.Mirror
}

// Close ends both.
func (m mirroring) Close() {
	m.mirror.Close()
	m.Resolver.Close()
}
