package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Register registers r with a check of its gRPC health, or one that the lease
// renews if r has a TTL, and keeps it registered until the lease is given back.
// Every 5 s, give or take 20 %, it asks the agent what it knows of r, and registers
// again when that is nothing, as after a restart of the agent, or something else
// than was registered. An operator's maintenance mode and the state of the check
// are left as they are.
func (d *Directory) Register(ctx context.Context, r catalog.Registration) (catalog.Lease, error) {
	service, err := registration(r)
	if err != nil {
		return nil, err
	}
	token, err := d.register(ctx, r, service)
	if err != nil {
		d.counters.services.tried(r.Service, nil, err)
		return nil, err
	}
	return d.lease(ctx, r, service, token), nil
}

// register registers once, and gives the token with which it has.
func (d *Directory) register(ctx context.Context, r catalog.Registration, service *api.AgentServiceRegistration) (token string, err error) {
	if err := d.checkItself(ctx, r); err != nil {
		return "", err
	}
	token = d.currentToken()
	if d.leftCritical(ctx, service) {
		d.withdraw(ctx, r.ID)
	}
	if err := d.announce(ctx, r, service); err != nil {
		d.withdraw(ctx, r.ID)
		return "", err
	}
	return token, nil
}

// checkItself calls r where others will call it.
func (d *Directory) checkItself(ctx context.Context, r catalog.Registration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := selfCheck(ctx, r); err != nil {
		return fmt.Errorf("%s cannot be reached at the address it would advertise, %s: %w", r.Service, r.Address, err)
	}
	return nil
}

func selfCheck(ctx context.Context, r catalog.Registration) error {
	if r.SelfCheck == nil {
		return nil
	}
	return r.SelfCheck(ctx)
}

// leftCritical says whether a process that has crashed has left the registration
// behind, critical by our check and with no other: Consul would keep that state
// until it has checked again.
func (d *Directory) leftCritical(ctx context.Context, service *api.AgentServiceRegistration) bool {
	has, err := d.look(ctx, service.ID)
	if err != nil || has == nil {
		return false
	}
	own := slices.DeleteFunc(has.Checks, func(c *healthCheck) bool { return c == nil || c.ServiceID == "" })
	return len(own) == 1 && own[0].CheckID == service.Check.CheckID && own[0].Status == api.HealthCritical
}

// announce registers r, which has checked itself, as passing.
func (d *Directory) announce(ctx context.Context, r catalog.Registration, service *api.AgentServiceRegistration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := d.write(ctx, service); err != nil || r.TTL == 0 {
		return err
	}
	// A check that was left by one that crashed has kept the state it had.
	if err := d.tell(ctx, r, nil); err != nil {
		return d.explain(err, fmt.Sprintf("service:write on %q", r.Service))
	}
	return nil
}

// write registers service. Checks of others, such as an operator's maintenance mode,
// stay; ours keeps the state it had, if it had one.
func (d *Directory) write(ctx context.Context, service *api.AgentServiceRegistration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := d.client.Agent().ServiceRegisterOpts(service, api.ServiceRegisterOpts{}.WithContext(ctx)); err != nil {
		return d.explain(err, fmt.Sprintf("service:write on %q", service.Name))
	}
	return nil
}

// withdraw undoes a registration that the agent may have taken although its
// answer did not come.
func (d *Directory) withdraw(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = d.client.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
}

// tell renews the TTL of r's check with what a self-check has found.
func (d *Directory) tell(ctx context.Context, r catalog.Registration, found error) error {
	status, output := api.HealthPassing, "the self-check passed"
	if found != nil {
		status, output = api.HealthCritical, brief(found.Error())
	}
	return d.client.Agent().UpdateTTLOpts("service:"+r.ID, output, status, (&api.QueryOptions{}).WithContext(ctx))
}

// look is what the agent itself, not the catalog, knows of an instance; nil is nothing.
func (d *Directory) look(ctx context.Context, id string) (*registered, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var info registered
	// api.Agent.AgentHealthServiceByIDOpts loses the reason of a refusal.
	_, err := d.client.Raw().Query("/v1/agent/health/service/id/"+id, &info, (&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	switch {
	case err == nil:
		return &info, nil
	case statusOf(err) == http.StatusNotFound:
		return nil, nil
	case errors.As(err, &status) && json.Unmarshal([]byte(status.Body), &info) == nil && info.Service != nil:
		return &info, nil // the codes of a warning and of a critical service, with the answer
	default:
		return nil, d.explain(err, "service:read")
	}
}

// drift names what the agent has otherwise than it was registered; nothing is "".
// Neither the state of our check nor checks of others, such as the maintenance
// mode, are ours to decide.
func drift(want *api.AgentServiceRegistration, has *registered) string {
	if has == nil || has.Service == nil {
		return "the service"
	}
	service := has.Service
	switch {
	case service.Service != want.Name:
		return "the name"
	case service.Address != want.Address || service.Port != want.Port:
		return "the address"
	case !slices.Equal(service.Tags, want.Tags) || service.EnableTagOverride:
		return "the tags"
	case !maps.Equal(service.Meta, want.Meta):
		return "the metadata"
	case service.Weights != *want.Weights:
		return "the weights"
	case !sameLocality(service.Locality, want.Locality):
		return "the locality"
	case !hasCheck(has, want.Check):
		return "the check"
	}
	return ""
}

func hasCheck(has *registered, want *api.AgentServiceCheck) bool {
	return has != nil && slices.ContainsFunc(has.Checks, func(c *healthCheck) bool {
		return c != nil && c.CheckID == want.CheckID && c.Name == want.Name
	})
}

// sameLocality forgives agents that are too old to know one.
func sameLocality(has, want *api.Locality) bool {
	return has == nil || want != nil && *has == *want
}
