package meshlite

import (
	"fmt"

	"github.com/meshlite-go/meshlite/identity"
)

// ConsulIdentity makes credentials of the certificate that Consul's CA signs for service,
// which is what this process is, read from the agent that the environment names. The same
// value secures servers and clients:
//
//	mtls, err := meshlite.ConsulIdentity("storefront")
//	common := meshlite.Options{meshlite.WithTransportCredentials(mtls)}
//
// Clients verify that a server is the service of their target, and servers that a caller is a
// service of the mesh, which Consul's intentions allow to call unless
// [identity.WithoutIntentions] or [identity.WithPermissive] is given: see package identity. The first connection waits for the first
// certificate, and a server registers when it is there. It follows Consul until Close. For
// the agent of another directory, give that to [identity.New]:
//
//	source, err := directory.Identity("storefront")
//	mtls, err := identity.New(source)
func ConsulIdentity(service string, opts ...identity.Option) (*identity.Credentials, error) {
	directory, err := DefaultRuntime().consul()
	if err != nil {
		return nil, err
	}
	source, err := directory.Identity(service)
	if err != nil {
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	credentials, err := identity.New(source, opts...)
	if err != nil {
		source.Close()
		return nil, fmt.Errorf("meshlite: %w", err)
	}
	return credentials, nil
}
