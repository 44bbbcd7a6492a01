package meshlite

import (
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// minTTL lets the health be told three times in each TTL, at most once a second.
const minTTL = 3 * time.Second

// WithLocality tells where the server runs, so that clients can prefer what is
// near: a region and, within it, a zone, which may be empty. Both empty is
// nowhere, so that variables of the environment can be given as they are.
func WithLocality(region, zone string) ServerOption {
	return serverOption(func(c *serverConfig) { c.region, c.zone = region, zone })
}

// WithTTLCheck makes the server tell Consul of its health three times in each ttl,
// and Consul calls it critical when it has told nothing for a whole one. Consul then
// never calls the server, which is for networks where it cannot, and for servers that
// ask for a client's certificate, which Consul has not. At least 3 s. Default: Consul
// asks the server for its gRPC health every 5 s.
func WithTTLCheck(ttl time.Duration) ServerOption {
	return serverOption(func(c *serverConfig) { c.ttl, c.ttlGiven = ttl, true })
}

// checkRegistration wants what Consul will take, before anything is listened on.
func (c *serverConfig) checkRegistration() error {
	switch {
	case c.zone != "" && c.region == "":
		return optionError("WithLocality", c.zone, "Consul takes a zone only within its region: write the region too")
	case c.ttlGiven && c.ttl < minTTL:
		return optionError("WithTTLCheck", c.ttl.String(), "write at least 3s, or leave it out if Consul can call the server")
	case c.ttlGiven && c.check != "":
		return optionError("WithHealthCheckAddress", c.check, "with WithTTLCheck Consul calls nothing: leave one of them out")
	}
	metrics := ""
	if c.metrics != metricsOff {
		metrics = unknownAddress
	}
	if err := consul.Validate(c.registration(c.names[0], unknownAddress, metrics)); err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	return nil
}

// unknownAddress stands for those that are known only when the server listens.
const unknownAddress = "localhost:1"
