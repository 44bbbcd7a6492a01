package meshlite

import (
	"fmt"
	"slices"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// ConsulIntentions decides which services may call service, by Consul's intentions about it,
// read from the agent that the environment names. A server with [ConsulIdentity] does so by
// itself; this is for one with other certificates, or to set options:
//
//	authorized, err := meshlite.ConsulIntentions("catalog")
//	server, err := meshlite.NewServer("catalog", meshlite.WithInterceptors(authorized), meshlite.WithTLS(settings))
//
// Callers are who their verified certificates prove; one without is denied, and so are all
// until intentions were read. It follows Consul until it is closed. For the agent of another
// directory, give that to [authz.New] by authz.WithWatcher. See package authz.
func ConsulIntentions(service string, opts ...authz.Option) (*authz.Authorizer, error) {
	directory, err := DefaultRuntime().consul()
	if err != nil {
		return nil, err
	}
	authorized, err := authz.New(service, append([]authz.Option{authz.WithWatcher(directory)}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	return authorized, nil
}

// enforceIntentions authorizes by the intentions about the service that the identity is of, as
// a sidecar of Consul's does, unless an option authorizes. The watch begins with Run.
func enforceIntentions(c *serverConfig) error {
	credentials := c.identity()
	authorizes := func(own interceptors.Concern) bool { return own.Stage() == interceptors.Authorization }
	if credentials == nil || slices.ContainsFunc(c.own, authorizes) {
		return nil
	}
	source, ok := consulIdentity(credentials)
	if !ok || !credentials.EnforcesIntentions() {
		c.log.Warn("intentions are not enforced: every service of the mesh may call: leave WithPermissive and WithoutIntentions out, or give WithInterceptors of a ConsulIntentions, or of authz.New",
			"service", c.registrations[0].Service)
		return nil
	}
	var err error
	if c.intentions, err = authz.NewUnstarted(source.Service(), authz.WithWatcher(source), authz.WithLogger(c.log)); err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	c.own = append(c.own, c.intentions)
	return nil
}

// consulIdentity returns the certificates that an agent's CA signs, if these are such.
func consulIdentity(credentials *identity.Credentials) (*consul.Identity, bool) {
	if credentials == nil {
		return nil, false
	}
	source, ok := credentials.Source().(*consul.Identity)
	return source, ok
}
