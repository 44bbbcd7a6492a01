package meshlite

import (
	"fmt"

	"github.com/meshlite-go/meshlite/interceptors/authz"
)

// ConsulIntentions decides which services may call service, by Consul's intentions about it,
// read from the agent that the environment names:
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
