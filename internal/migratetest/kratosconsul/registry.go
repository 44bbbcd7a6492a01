// Package kratosconsul registers and finds instances as contrib/registry/consul of kratos
// does, whose module cannot be had everywhere. It is written anew by the format that one
// publishes:
//
//   - A tag "version=v1", the metadata as it is, and a tagged address for each endpoint: by
//     its scheme, the whole URL and the port. The first endpoint is the address itself.
//   - A TCP check of each endpoint every 10 s, and a TTL check "service:<id>" of 20 s that is
//     renewed every 10, for the first time after one; all deregister after 10 minutes.
//   - Instances are found by a blocking query for those that pass. The endpoints are the
//     tagged addresses besides Consul's own, and otherwise "http://" and the address. An empty
//     answer changes nothing.
package kratosconsul

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-kratos/kratos/v2/registry"
	"github.com/hashicorp/consul/api"
)

const (
	interval        = 10 * time.Second
	ttl             = 2 * interval
	deregisterAfter = 10 * time.Minute
	firstHeartbeat  = time.Second
	longestWait     = 55 * time.Second
)

var (
	_ registry.Registrar = (*Registry)(nil)
	_ registry.Discovery = (*Registry)(nil)
)

// Registry is safe for concurrent use.
type Registry struct {
	agent *api.Client

	mu         sync.Mutex
	heartbeats map[string]context.CancelFunc // by the id of an instance
}

// New returns a registry of the agent.
func New(agent *api.Client) *Registry {
	return &Registry{agent: agent, heartbeats: map[string]context.CancelFunc{}}
}

// Register implements [registry.Registrar]. It renews the TTL until Deregister.
func (r *Registry) Register(ctx context.Context, in *registry.ServiceInstance) error {
	service, err := registration(in)
	if err != nil {
		return err
	}
	if err := r.agent.Agent().ServiceRegisterOpts(service, api.ServiceRegisterOpts{}.WithContext(ctx)); err != nil {
		return err
	}
	heartbeat, cancel := context.WithCancel(context.Background())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heartbeats[in.ID] = cancel
	go r.renew(heartbeat, checkID(in.ID))
	return nil
}

func checkID(instance string) string { return "service:" + instance }

func registration(in *registry.ServiceInstance) (*api.AgentServiceRegistration, error) {
	service := &api.AgentServiceRegistration{
		ID: in.ID, Name: in.Name, Meta: in.Metadata,
		Tags:            []string{"version=" + in.Version},
		TaggedAddresses: map[string]api.ServiceAddress{},
	}
	for i, endpoint := range in.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
		}
		service.TaggedAddresses[u.Scheme] = api.ServiceAddress{Address: endpoint, Port: port}
		service.Checks = append(service.Checks, &api.AgentServiceCheck{
			TCP: u.Host, Interval: interval.String(), Timeout: "5s", DeregisterCriticalServiceAfter: deregisterAfter.String(),
		})
		if i == 0 {
			service.Address, service.Port = u.Hostname(), port
		}
	}
	service.Checks = append(service.Checks, &api.AgentServiceCheck{
		CheckID: checkID(in.ID), TTL: ttl.String(), DeregisterCriticalServiceAfter: deregisterAfter.String(),
	})
	return service, nil
}

func (r *Registry) renew(ctx context.Context, check string) {
	for next := time.After(firstHeartbeat); ; next = time.After(interval) {
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
		if err := r.agent.Agent().UpdateTTLOpts(check, "pass", api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx)); err != nil && ctx.Err() == nil {
			log.Printf("the heartbeat of %s: %v", check, err)
		}
	}
}

// Deregister implements [registry.Registrar].
func (r *Registry) Deregister(ctx context.Context, in *registry.ServiceInstance) error {
	r.mu.Lock()
	if cancel, found := r.heartbeats[in.ID]; found {
		cancel()
		delete(r.heartbeats, in.ID)
	}
	r.mu.Unlock()
	return r.agent.Agent().ServiceDeregisterOpts(in.ID, (&api.QueryOptions{}).WithContext(ctx))
}

// GetService implements [registry.Discovery].
func (r *Registry) GetService(ctx context.Context, name string) ([]*registry.ServiceInstance, error) {
	instances, _, err := r.passing(ctx, name, 0)
	return instances, err
}

// Watch implements [registry.Discovery].
func (r *Registry) Watch(ctx context.Context, name string) (registry.Watcher, error) {
	w := &watcher{registry: r, name: name}
	w.ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx)) // ctx is of the call alone
	return w, nil
}

func (r *Registry) passing(ctx context.Context, name string, index uint64) ([]*registry.ServiceInstance, uint64, error) {
	query := &api.QueryOptions{WaitIndex: index, WaitTime: longestWait}
	entries, meta, err := r.agent.Health().Service(name, "", true, query.WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	var instances []*registry.ServiceInstance
	for _, entry := range entries {
		instances = append(instances, instance(entry.Service))
	}
	return instances, meta.LastIndex, nil
}

func instance(service *api.AgentService) *registry.ServiceInstance {
	in := &registry.ServiceInstance{ID: service.ID, Name: service.Service, Metadata: service.Meta}
	for _, tag := range service.Tags {
		if version, found := strings.CutPrefix(tag, "version="); found {
			in.Version = version
		}
	}
	for scheme, tagged := range service.TaggedAddresses {
		switch scheme {
		case "lan_ipv4", "wan_ipv4", "lan_ipv6", "wan_ipv6": // Consul adds them
		default:
			in.Endpoints = append(in.Endpoints, tagged.Address)
		}
	}
	if len(in.Endpoints) == 0 && service.Address != "" && service.Port != 0 {
		in.Endpoints = []string{fmt.Sprintf("http://%s:%d", service.Address, service.Port)}
	}
	return in
}

type watcher struct {
	registry *Registry
	name     string
	index    uint64 // of the last answer
	ctx      context.Context
	cancel   context.CancelFunc
}

// Next implements [registry.Watcher].
func (w *watcher) Next() ([]*registry.ServiceInstance, error) {
	for {
		instances, index, err := w.registry.passing(w.ctx, w.name, w.index)
		switch {
		case w.ctx.Err() != nil:
			return nil, w.ctx.Err()
		case err != nil:
			w.index = 0
			return nil, err
		case index == w.index || len(instances) == 0:
			w.index = index
		default:
			w.index = index
			return instances, nil
		}
	}
}

// Stop implements [registry.Watcher].
func (w *watcher) Stop() error {
	w.cancel()
	return nil
}
