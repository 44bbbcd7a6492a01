package meshlite

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// registration is what Consul is told of the server under one of its names.
func (c *serverConfig) registration(name, address, metrics string) catalog.Registration {
	metadata := map[string]string{}
	maps.Copy(metadata, c.metadata)
	if metrics != "" {
		metadata["metrics_address"] = metrics
		// A process under several names is scraped under the first of them, once.
		if name != c.names[0] {
			metadata["metrics_service"] = c.names[0]
		}
	}
	return catalog.Registration{
		Instance: catalog.Instance{
			ID:       catalog.InstanceID(name, address),
			Service:  name,
			Address:  address,
			Tags:     c.tags,
			Metadata: metadata,
			Weight:   c.weight,
			Region:   c.region,
			Zone:     c.zone,
		},
		WarningWeight:   c.warningWeight,
		CheckAddress:    c.check,
		CheckTLS:        !c.plaintext,
		DeregisterAfter: c.deregisterAfter,
		TTL:             c.ttl,
	}
}

// register puts the server into Consul under one of its names.
func (r *run) register(ctx context.Context, name, address string) error {
	metrics := ""
	if r.admin != nil {
		metrics = reachable(r.admin.Addr(), address)
	}
	registration := r.config.registration(name, address, metrics)
	registration.SelfCheck = func(ctx context.Context) error { return r.selfCheck(ctx, address) }
	err := r.try(ctx, func() error {
		lease, err := r.config.directory.Register(ctx, registration)
		if err == nil {
			r.leases = append(r.leases, lease)
		}
		return err
	})
	if err == nil {
		r.config.log.Info("serving", "service", name, "id", registration.ID, "address", address, "metrics", metrics)
	}
	return err
}

// reachable is where a listener is reached: at the host that is advertised when it
// listens on all of them.
func reachable(listener net.Addr, advertised string) string {
	tcp, ok := listener.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return listener.String()
	}
	host, _, _ := net.SplitHostPort(advertised)
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// selfCheck asks the server for its health at the address that it advertises.
func (r *run) selfCheck(ctx context.Context, address string) error {
	if err := r.healthy(); err != nil {
		return err
	}
	if !r.config.plaintext {
		// A server cannot prove itself to itself without a client's certificate.
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("%w: set WithAdvertisedAddress", err)
		}
		return conn.Close()
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	response, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("%w: set WithAdvertisedAddress", err)
	}
	if response.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("it says it is %v", response.GetStatus())
	}
	return nil
}

func (r *run) deregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, deregisterTime)
	defer cancel()
	for _, lease := range r.leases {
		if err := lease.Deregister(ctx); err != nil {
			r.config.log.Warn("could not leave Consul, which will find out by its check", "service", r.config.names[0], "error", err)
		}
	}
}
