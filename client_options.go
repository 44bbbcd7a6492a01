package meshlite

import (
	"strconv"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

type clientConfig struct {
	config
	balancer       string
	serviceConfig  string
	subset         int
	panicThreshold float64
	snapshots      *string // directory
	resolver       []resolver.Option
	dialOptions    []grpc.DialOption
}

// WithBalancer chooses the policy of picking where neither the target nor a
// service config names one: "round_robin", "least_request", "peak_ewma", or
// "grpc:NAME" for one that is registered with gRPC. What can be set of ours
// ([balancer.Settings]) is written in [WithServiceConfig]. Default: least_request.
func WithBalancer(policy string) ClientOption {
	return clientOption(func(c *clientConfig) { c.balancer = policy })
}

// WithServiceConfig gives the channel a service config of gRPC, as JSON. A policy
// in the target replaces the policy in it.
func WithServiceConfig(json string) ClientOption {
	return clientOption(func(c *clientConfig) { c.serviceConfig = json })
}

// WithWarning also calls instances in warning state, with Consul's warning weight.
func WithWarning() ClientOption {
	return clientOption(func(c *clientConfig) { c.resolver = append(c.resolver, resolver.WithWarning()) })
}

// WithPanicThreshold sets which share of the instances must be healthy in Consul. When
// fewer are, those that its health checks keep out are called, too, as far as they
// answer; it is logged, and in meshlite_discovery_panicking. 0 obeys the health checks
// always. Default: 0.3.
func WithPanicThreshold(share float64) ClientOption {
	return clientOption(func(c *clientConfig) {
		c.resolver = append(c.resolver, resolver.WithPanicThreshold(share))
		c.panicThreshold = share
	})
}

// WithMaintenance calls, when too few instances are healthy, also those that an operator
// has put into maintenance. Default: they are never called.
func WithMaintenance() ClientOption {
	return clientOption(func(c *clientConfig) { c.resolver = append(c.resolver, resolver.WithMaintenance()) })
}

// WithDialOptions passes options on to grpc.NewClient. They win over ours, which bound
// the header and the trailer of a response: grpc.WithMaxHeaderListSize 16 KiB. A call
// fails if its response has more, details of a status included.
// Interceptors among them run outside of all concerns, the cache and the metrics
// too; those of [WithInterceptors] have their place inside.
func WithDialOptions(options ...grpc.DialOption) ClientOption {
	return clientOption(func(c *clientConfig) { c.dialOptions = append(c.dialOptions, options...) })
}

// WithSubset bounds the endpoints that a channel connects to. Of more, each
// process takes a part of its own, which changes by one endpoint at most when one
// instance comes or goes. 0 is all of them, which grpc:ring_hash needs. Default: 100.
func WithSubset(endpoints int) ClientOption {
	return clientOption(func(c *clientConfig) {
		c.resolver = append(c.resolver, resolver.WithSubset(endpoints))
		c.subset = endpoints
	})
}

// WithSnapshots keeps what Consul told last in dir, which is made if it is not
// there, so that a program starts while Consul is down. Programs may share it; what
// one agent has told is not used for another. Calls go where the files say: nobody
// else may write there.
// Default: nowhere.
func WithSnapshots(dir string) ClientOption {
	return clientOption(func(c *clientConfig) { c.snapshots = &dir })
}

// finish opens and checks what only channels have.
func (c *clientConfig) finish() error {
	if err := c.config.finish(); err != nil {
		return err
	}
	if c.subset < 0 {
		return optionError("WithSubset", strconv.Itoa(c.subset), "write 1 or more, or 0 for all endpoints")
	}
	if !(c.panicThreshold >= 0 && c.panicThreshold <= 1) {
		return optionError("WithPanicThreshold", strconv.FormatFloat(c.panicThreshold, 'g', -1, 64), "write a share from 0 to 1")
	}
	if c.snapshots == nil {
		return nil
	}
	disk, err := snapshot.Open(*c.snapshots)
	if err != nil {
		return optionError("WithSnapshots", *c.snapshots, err.Error())
	}
	c.resolver = append(c.resolver, resolver.WithSnapshots(disk))
	return nil
}
