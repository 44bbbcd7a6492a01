package meshlite

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

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
	runtime := DefaultRuntime()
	directory, err := runtime.consul()
	if err != nil {
		return nil, err
	}
	authorized, err := authz.New(service, append([]authz.Option{authz.WithWatcher(directory), authz.WithCallers(runtime.callers)}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	return authorized, nil
}

// enforceIntentions authorizes by the intentions about the service that the identity is of, as
// a sidecar of Consul's does, unless an option authorizes. The watch begins with Run.
func enforceIntentions(c *serverConfig) error {
	credentials := c.identity()
	switch given := authorizers(c.own); {
	case given > 1:
		return errors.New("meshlite: authorization is given twice: leave one of them out")
	case given == 1 || credentials == nil:
		return nil
	}
	source, ok := consulIdentity(credentials)
	written := c.policy.GetIntentions()
	switch enforced := ok && credentials.EnforcesIntentions(); {
	case !enforced && written != nil && !written.GetDisabled():
		return nil // those of the policy decide
	case !enforced:
		c.log.Warn("intentions are not enforced: every service of the mesh may call: leave WithPermissive and WithoutIntentions out, or give WithInterceptors of a ConsulIntentions, or of authz.New",
			"service", c.registrations[0].Service)
		return nil
	}
	var err error
	if c.intentions, err = authz.NewUnstarted(source.Service(), authz.WithWatcher(source), authz.WithCallers(c.runtime.callers), authz.WithLogger(c.log)); err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	c.own = append(c.own, c.intentions)
	return nil
}

// authorizers counts those among concerns.
func authorizers(concerns []interceptors.Concern) (n int) {
	for _, own := range concerns {
		if own.Stage() == interceptors.Authorization {
			n++
		}
	}
	return n
}

// policyIntentions authorizes by the intentions of policies, beside what else authorizes. The
// policies of a server do not change, so open streams of services without intentions need
// nobody who watches them.
type policyIntentions struct{ *authz.Authorizer }

func newPolicyIntentions(c *serverConfig) (policyIntentions, error) {
	authorizer, err := authz.New(c.registrations[0].Service, authz.WithPolicy(), authz.WithCallers(c.runtime.callers), authz.WithLogger(c.log))
	if err != nil {
		return policyIntentions{}, fmt.Errorf("meshlite: %w", err)
	}
	return policyIntentions{authorizer}, nil
}

// StreamServer is nil without intentions.
func (p policyIntentions) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if meta.Intentions == nil {
		return nil
	}
	return p.Authorizer.StreamServer(meta)
}

// warnOfIntentions logs which of services nobody may call, since their policies want callers
// with an identity and this server lets in callers without one.
func warnOfIntentions(c *serverConfig, services map[string]grpc.ServiceInfo) {
	mutual := c.identity()
	if !isPlaintext(c.creds) && (mutual == nil || !mutual.IsPermissive()) {
		return
	}
	var guarded []string
	for service := range services {
		if service != healthv1.Health_ServiceDesc.ServiceName && c.policies.Call(interceptors.Server, "/"+service+"/").Intentions != nil {
			guarded = append(guarded, service)
		}
	}
	if len(guarded) > 0 {
		slices.Sort(guarded)
		c.log.Error("callers in plaintext are denied: the policy has intentions, which want verified callers: give WithTransportCredentials of an identity, or write intentions: {disabled: true} in WithPolicy",
			"service", c.registrations[0].Service, "contracts", guarded)
	}
}

// consulIdentity returns the certificates that an agent's CA signs, if these are such.
func consulIdentity(credentials *identity.Credentials) (*consul.Identity, bool) {
	if credentials == nil {
		return nil, false
	}
	source, ok := credentials.Source().(*consul.Identity)
	return source, ok
}
