package benchkit

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// ServeMesh serves a service with the whole default chain, until the process ends, registered
// with a stand-in for Consul. It serves call streams to clients that ask for them.
func ServeMesh(agent *consultest.Server, service string, security Security, delays []atomic.Int64) error {
	directory, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: silent()})
	if err != nil {
		return err
	}
	secured, _, err := security(directory)
	if err != nil {
		return err
	}
	for i := range delays {
		var options []meshlite.ServerOption
		for _, o := range meshOptions(directory, secured, true) {
			options = append(options, o)
		}
		server, err := meshlite.NewServer(service, options...)
		if err != nil {
			return err
		}
		catalogv1.RegisterCatalogServiceServer(server, Backend{Name: strconv.Itoa(i), Delay: &delays[i]})
		testpb.RegisterBenchmarkServiceServer(server, StreamBackend{})
		go func() { _ = server.Run(context.Background()) }()
	}
	return awaitInstances(directory, service, len(delays))
}

func awaitInstances(directory *consul.Directory, service string, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		entries, err := directory.Entries(ctx, catalog.Query{Service: service})
		if err == nil && len(entries) == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d instances of %s are registered: %w", len(entries), n, service, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// meshOptions turn everything on that a channel or server has by default, and a rate
// limit that admits all. Only the cache is off: it would save the calls.
func meshOptions(directory *consul.Directory, security meshlite.Option, callStreams bool) []meshlite.Option {
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{CallStreams: callStreams})
	if err != nil {
		panic(err) // the defaults are right
	}
	off, all := "0s", uint64(1e9)
	return []meshlite.Option{
		security, meshlite.WithDirectory(directory), meshlite.WithLogger(silent()), meshlite.WithRuntime(runtime),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
			Cache:      &policyv1.CacheRule{Ttl: &off},
			RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: &all}},
		}}),
	}
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Mesh is how channels of meshlite call.
type Mesh struct {
	Policy      string
	Security    Security
	CallStreams bool
}

// DialMesh opens n channels of meshlite to the servers of [ServeMesh], with the whole chain.
// They share a directory, and a runtime that keeps what policies measure.
func DialMesh(agent, service string, with Mesh, n int) (*Channels, error) {
	directory, err := consul.New(consul.Config{Address: agent, Logger: silent()})
	if err != nil {
		return nil, err
	}
	secured, end, err := with.Security(directory)
	if err != nil {
		directory.Close()
		return nil, err
	}
	options := []meshlite.ClientOption{meshlite.WithBalancer(with.Policy)}
	for _, o := range meshOptions(directory, secured, with.CallStreams) {
		options = append(options, o)
	}
	channels := &Channels{Then: func() { end(); directory.Close() }}
	for range n {
		conn, err := meshlite.NewClient("consul:///"+service, options...)
		if err != nil {
			channels.Close()
			return nil, err
		}
		channels.Conns = append(channels.Conns, conn)
	}
	return channels, nil
}
