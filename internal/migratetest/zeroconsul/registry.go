// Package zeroconsul registers and finds instances as zrpc/registry/consul of go-zero's
// zero-contrib does, whose module cannot be had everywhere. It is written anew by the format
// that one publishes:
//
//   - The address and port as they are, no tagged address, the id "<name>-<host>-<port>", and
//     a TTL check of 20 s with the same id, passing from the start, renewed every 10 s;
//     critical for 90 s it deregisters. A shutdown deregisters.
//   - "consul://<agent>/<service>?healthy=true" follows a blocking query; without healthy
//     it lists the critical ones too. The address of an instance that has none is its node's.
package zeroconsul

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/zeromicro/go-zero/core/proc"
	"google.golang.org/grpc/resolver"
)

const (
	ttl             = 20 * time.Second
	heartbeat       = 10 * time.Second
	deregisterAfter = 90 * time.Second
)

// Conf is the part of a service's settings that names the agent and the service.
type Conf struct {
	Host string
	Key  string
}

// RegisterService registers the address until the shutdown of the process.
func RegisterService(listenOn string, c Conf) error {
	host, text, err := net.SplitHostPort(listenOn)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	client, err := api.NewClient(&api.Config{Address: c.Host})
	if err != nil {
		return err
	}
	agent, id := client.Agent(), fmt.Sprintf("%s-%s-%d", c.Key, host, port)
	if err := agent.ServiceRegister(&api.AgentServiceRegistration{
		ID: id, Name: c.Key, Address: host, Port: port,
		Check: &api.AgentServiceCheck{
			CheckID: id, TTL: ttl.String(), Status: api.HealthPassing, DeregisterCriticalServiceAfter: deregisterAfter.String(),
		},
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go renew(ctx, agent, id)
	proc.AddShutdownListener(func() {
		cancel()
		if err := agent.ServiceDeregister(id); err != nil {
			log.Print(err)
		}
	})
	return nil
}

func renew(ctx context.Context, agent *api.Agent, check string) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := agent.UpdateTTL(check, "", api.HealthPassing); err != nil {
			log.Printf("the heartbeat of %s: %v", check, err)
		}
	}
}

func init() { resolver.Register(builder{}) }

type builder struct{}

// Scheme implements [resolver.Builder].
func (builder) Scheme() string { return "consul" }

// Build implements [resolver.Builder].
func (builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	client, err := api.NewClient(&api.Config{Address: target.URL.Host})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := watch{client.Health(), cc, strings.Trim(target.URL.Path, "/"), target.URL.Query().Get("healthy") == "true"}
	go w.run(ctx)
	return stop(cancel), nil
}

// stop ends a watch.
type stop context.CancelFunc

// ResolveNow implements [resolver.Resolver].
func (stop) ResolveNow(resolver.ResolveNowOptions) {}

// Close implements [resolver.Resolver].
func (s stop) Close() { s() }

type watch struct {
	health  *api.Health
	cc      resolver.ClientConn
	service string
	healthy bool
}

func (w watch) run(ctx context.Context) {
	for index := uint64(0); ctx.Err() == nil; {
		entries, meta, err := w.health.Service(w.service, "", w.healthy, (&api.QueryOptions{WaitIndex: index, Near: "_agent"}).WithContext(ctx))
		if err != nil {
			time.Sleep(time.Second)
			continue
		}
		index = meta.LastIndex
		var addresses []resolver.Address
		for _, e := range entries {
			host := cmp.Or(e.Service.Address, e.Node.Address)
			addresses = append(addresses, resolver.Address{Addr: net.JoinHostPort(host, strconv.Itoa(e.Service.Port))})
		}
		slices.SortFunc(addresses, func(a, b resolver.Address) int { return strings.Compare(a.Addr, b.Addr) })
		_ = w.cc.UpdateState(resolver.State{Addresses: addresses}) // gRPC asks for a retry of an empty list: the next answer is one
	}
}
