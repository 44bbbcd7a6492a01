package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// lease makes one registration and keeps it.
type lease struct {
	client       *client
	heartbeat    time.Duration
	registration catalog.Registration
	service      *api.AgentServiceRegistration // the registration in Consul's terms
	log          *slog.Logger
	token        string // of the last registration
	stop         func() // ends the heartbeat and waits for it

	deregister sync.Once
}

// register registers once.
func (l *lease) register(ctx context.Context) error {
	if err := l.checkReachable(ctx); err != nil {
		return err
	}
	l.token = l.client.currentToken()
	if l.leftCritical(ctx) {
		l.withdraw(ctx)
	}
	if err := l.writePassing(ctx); err != nil {
		l.withdraw(ctx)
		return err
	}
	return nil
}

// start keeps what register has registered.
func (l *lease) start(ctx context.Context) {
	counters, name := l.client.counters, l.registration.Service
	counters.registrations.Add(1)
	counters.services.record(name, l, nil)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	work.Go(func() { l.keep(ctx) })
	if l.registration.TTL > 0 {
		work.Go(func() { l.renew(ctx) })
	}
	l.stop = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		counters.registrations.Add(-1)
		counters.services.remove(name, l)
	})
}

// keep compares the registration with the agent's at each heartbeat until ctx ends.
func (l *lease) keep(ctx context.Context) {
	failing := episode{log: l.log, begins: "the registration cannot be confirmed: retrying at each heartbeat", ends: "the registration is confirmed again"}
	critical := episode{log: l.log, begins: "Consul reports this instance as critical: clients do not call it", ends: "Consul no longer reports this instance as critical"}
	for last := ""; ; {
		pause(ctx, jitter(l.heartbeat))
		has, lost, err := l.restore(ctx)
		if ctx.Err() != nil {
			return
		}
		failing.set(err)
		l.client.counters.services.record(l.registration.Service, l, err)
		if has != nil {
			critical.set(criticalOutput(has.Checks))
		}
		if err != nil {
			continue
		}
		if lost != "" {
			l.client.counters.reregistrations.Add(1)
		}
		// Two processes with the same id would otherwise log at each heartbeat.
		if lost != "" && lost != last {
			l.log.Warn("the agent had lost or changed the registration: registered again", "agent", l.client.address, "changed", lost)
		}
		last = lost
	}
}

// restore registers again if the agent's registration is missing or differs, and names the
// difference. has is what the agent had before; nil is nothing, or an error.
func (l *lease) restore(ctx context.Context) (has *agentService, lost string, err error) {
	has, err = l.read(ctx)
	if err != nil {
		return nil, "", err
	}
	lost = drift(l.service, has)
	// The agent writes to the catalog, check states included, with the token of the
	// registration.
	token := l.client.currentToken()
	if lost == "" && token == l.token {
		return has, "", nil
	}
	if err := l.registerAgain(ctx, hasCheck(has, l.service.Check)); err != nil {
		return has, lost, err
	}
	if token != l.token {
		l.log.Info("the token has changed: registered again with the new one")
	}
	l.token = token
	return has, lost, nil
}

// registerAgain keeps the state of the check if the agent has it. Otherwise it registers as
// passing, after a self-check.
func (l *lease) registerAgain(ctx context.Context, hasCheck bool) error {
	if hasCheck {
		return l.write(ctx)
	}
	if err := l.checkReachable(ctx); err != nil {
		return err
	}
	return l.writePassing(ctx)
}

// checkReachable runs the self-check.
func (l *lease) checkReachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := l.selfCheck(ctx); err != nil {
		return fmt.Errorf("%s cannot be reached at the address it would advertise, %s: %w", l.registration.Service, l.registration.Address, err)
	}
	return nil
}

func (l *lease) selfCheck(ctx context.Context) error {
	if l.registration.SelfCheck == nil {
		return nil
	}
	return l.registration.SelfCheck(ctx)
}

// leftCritical reports whether a crashed process has left this registration behind, critical
// by our check and with no other: Consul would keep that state until its next check.
func (l *lease) leftCritical(ctx context.Context) bool {
	has, err := l.read(ctx)
	if err != nil || has == nil {
		return false
	}
	own := slices.DeleteFunc(has.Checks, func(c *healthCheck) bool { return c == nil || c.ServiceID == "" })
	return len(own) == 1 && own[0].CheckID == l.service.Check.CheckID && own[0].Status == api.HealthCritical
}

// writePassing registers and, for a TTL, sets the check to passing: one that a crashed process
// has left keeps its state otherwise.
func (l *lease) writePassing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := l.write(ctx); err != nil || l.registration.TTL == 0 {
		return err
	}
	return l.updateTTL(ctx, nil)
}

// write registers. Other checks, such as an operator's maintenance mode, stay, and ours
// keeps its state if the agent has it.
func (l *lease) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return l.explain(l.client.api.Agent().ServiceRegisterOpts(l.service, api.ServiceRegisterOpts{}.WithContext(ctx)))
}

// explain names the permission that writing needs. It returns nil for nil.
func (l *lease) explain(err error) error {
	if err == nil {
		return nil
	}
	return l.client.explain(err, fmt.Sprintf("service:write on %q", l.service.Name))
}

// withdraw undoes a registration that the agent may have accepted although its answer was
// lost.
func (l *lease) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.client.api.Agent().ServiceDeregisterOpts(l.service.ID, (&api.QueryOptions{}).WithContext(ctx))
}

// updateTTL sets the TTL check to the result of a self-check.
func (l *lease) updateTTL(ctx context.Context, result error) error {
	status, output := api.HealthPassing, "the self-check passed"
	if result != nil {
		status, output = api.HealthCritical, brief(result.Error())
	}
	return l.explain(l.client.api.Agent().UpdateTTLOpts(l.service.Check.CheckID, output, status, (&api.QueryOptions{}).WithContext(ctx)))
}

// renew runs the self-check three times in each TTL and sends the agent its result.
func (l *lease) renew(ctx context.Context) {
	failing := episode{log: l.log, begins: "the TTL check cannot be renewed: Consul will report this instance as critical", ends: "the TTL check is renewed again"}
	third := l.registration.TTL / 3
	ticker := time.NewTicker(third)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		result := within(ctx, third, l.selfCheck)
		err := within(ctx, third, func(ctx context.Context) error { return l.updateTTL(ctx, result) })
		if ctx.Err() != nil {
			return
		}
		failing.set(err)
	}
}

func within(ctx context.Context, d time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return do(ctx)
}

// read returns what the agent itself, not the catalog, has registered; nil is nothing.
func (l *lease) read(ctx context.Context) (*agentService, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var info agentService
	// api.Agent.AgentHealthServiceByIDOpts loses the reason of a refusal.
	err := l.client.get(ctx, "/v1/agent/health/service/id/"+l.service.ID, &info)
	var status api.StatusError
	switch {
	case err == nil:
		return &info, nil
	case statusOf(err) == http.StatusNotFound:
		return nil, nil
	case errors.As(err, &status) && json.Unmarshal([]byte(status.Body), &info) == nil && info.Service != nil:
		return &info, nil // the status codes of warning and critical come with the answer
	default:
		return nil, l.client.explain(err, "service:read")
	}
}

// drift names what the agent has otherwise than it was registered; "" is nothing.
// The state of our check, and other checks such as the maintenance mode, do not count.
func drift(want *api.AgentServiceRegistration, has *agentService) string {
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
	case !hasTagged(service.TaggedAddresses, want.TaggedAddresses):
		return "the tagged addresses"
	case !sameLocality(service.Locality, want.Locality):
		return "the locality"
	case service.Connect.Native != (want.Connect != nil && want.Connect.Native):
		return "Connect"
	case !hasCheck(has, want.Check):
		return "the check"
	}
	return ""
}

func hasCheck(has *agentService, want *api.AgentServiceCheck) bool {
	return has != nil && slices.ContainsFunc(has.Checks, func(c *healthCheck) bool {
		return c != nil && c.CheckID == want.CheckID && c.Name == want.Name
	})
}

// hasTagged accepts further ones: Consul adds the address itself as lan_ipv4 and others.
func hasTagged(has map[string]taggedAddress, want map[string]api.ServiceAddress) bool {
	for tag, address := range want {
		if has[tag] != taggedAddress(address) {
			return false
		}
	}
	return true
}

// sameLocality accepts agents without localities.
func sameLocality(has, want *api.Locality) bool {
	return has == nil || want != nil && *has == *want
}

// criticalOutput returns the output of the critical checks of an instance, those of its node
// included; nil is that none is critical.
func criticalOutput(checks []*healthCheck) error {
	var outputs []string
	for _, c := range checks {
		if c != nil && c.Status == api.HealthCritical {
			outputs = append(outputs, fmt.Sprintf("%s: %s", c.Name, cmp.Or(brief(c.reason()), "no output")))
		}
	}
	if outputs == nil {
		return nil
	}
	return errors.New(strings.Join(outputs, "; "))
}

// Deregister stops the heartbeat, which would register again, and deregisters.
func (l *lease) Deregister(ctx context.Context) error {
	l.stop()
	var err error
	l.deregister.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if err = l.remove(ctx); err != nil && ctx.Err() == nil {
			// A connection from before a restart of the agent breaks with its next request.
			err = l.remove(ctx)
		}
		err = l.explain(err)
	})
	return err
}

// remove deregisters. A registration that the agent has lost is not an error.
func (l *lease) remove(ctx context.Context) error {
	err := l.client.api.Agent().ServiceDeregisterOpts(l.service.ID, (&api.QueryOptions{}).WithContext(ctx))
	if statusOf(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// jitter spreads d by 20 % either way.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5)
}

// episode logs when errors begin and when they end, and nothing between.
type episode struct {
	log          *slog.Logger
	begins, ends string
	on           bool
}

func (e *episode) set(err error) {
	switch {
	case err != nil && !e.on:
		e.log.Warn(e.begins, "error", err)
	case err == nil && e.on:
		e.log.Info(e.ends)
	}
	e.on = err != nil
}

// Registration is the state of a registration that is being kept.
type Registration struct {
	Service      string    `json:"service"`
	ID           string    `json:"id"`
	Address      string    `json:"address"`
	Agent        string    `json:"agent"`
	Check        string    `json:"check"`         // how Consul checks the health
	Registered   bool      `json:"registered"`    // the agent had it at the last heartbeat
	RegisteredAt time.Time `json:"registered_at"` // for the first time
	ConfirmedAt  time.Time `json:"confirmed_at"`  // when the agent last had it
	LastError    string    `json:"last_error"`    // of a heartbeat, or of registering again; "" is none so far
	LastErrorAt  time.Time `json:"last_error_at,omitzero"`
}

// Registration returns the state of the lease. After Deregister only what was registered is
// set. It is safe for concurrent use.
func (l *lease) Registration() Registration {
	c := l.client.counters.services.of(l.registration.Service, l)
	r := Registration{
		Service: l.registration.Service, ID: l.registration.ID, Address: l.registration.Address,
		Agent: l.client.address, Check: l.describeCheck(),
		Registered: c.registered, RegisteredAt: c.registeredAt, ConfirmedAt: c.confirmedAt, LastErrorAt: c.errAt,
	}
	if c.err != nil {
		r.LastError = c.err.Error()
	}
	return r
}

func (l *lease) describeCheck() string {
	check := l.service.Check
	switch {
	case check.TTL != "":
		return "TTL of " + check.TTL
	case check.GRPCUseTLS:
		return fmt.Sprintf("gRPC health of %s over TLS every %s", check.GRPC, check.Interval)
	default:
		return fmt.Sprintf("gRPC health of %s every %s", check.GRPC, check.Interval)
	}
}

// maxServices bounds the services in [Stats]. A process registers a few.
const maxServices = 1024

// ServiceStats counts the registrations of one service by this process.
type ServiceStats struct {
	Service     string    `json:"service"`
	Registered  bool      `json:"registered"`   // the agent had all of them at the last heartbeat
	Attempts    uint64    `json:"attempts"`     // to register, and heartbeats
	Failures    uint64    `json:"failures"`     // of these: by the agent or the self-check
	ConfirmedAt time.Time `json:"confirmed_at"` // when the agent last had it; of several, the longest ago
}

// serviceRecords are the services that this process registers, by name.
type serviceRecords struct {
	mu     sync.Mutex
	byName map[string]*serviceRecord
}

type serviceRecord struct {
	attempts, failures uint64
	leases             map[*lease]*leaseRecord
}

// leaseRecord is the latest state of a lease.
type leaseRecord struct {
	registered                bool
	registeredAt, confirmedAt time.Time // the first and the last time that the agent had it
	err                       error     // the last one
	errAt                     time.Time
}

// record counts an attempt; l is nil if the service is not registered yet.
func (s *serviceRecords) record(name string, l *lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	service := s.byName[name]
	if service == nil {
		if len(s.byName) >= maxServices {
			return
		}
		if s.byName == nil {
			s.byName = map[string]*serviceRecord{}
		}
		service = &serviceRecord{leases: map[*lease]*leaseRecord{}}
		s.byName[name] = service
	}
	service.attempts++
	if err != nil {
		service.failures++
	}
	if l == nil {
		return
	}
	if service.leases[l] == nil {
		service.leases[l] = &leaseRecord{registeredAt: time.Now()}
	}
	service.leases[l].set(err)
}

func (r *leaseRecord) set(err error) {
	if r.registered = err == nil; r.registered {
		r.confirmedAt = time.Now()
	} else {
		r.err, r.errAt = err, time.Now()
	}
}

// of returns the record of a lease; it is zero after Deregister.
func (s *serviceRecords) of(name string, l *lease) leaseRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	if service := s.byName[name]; service != nil && service.leases[l] != nil {
		return *service.leases[l]
	}
	return leaseRecord{}
}

// remove removes a lease, and its service with the last one.
func (s *serviceRecords) remove(name string, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if service := s.byName[name]; service != nil {
		if delete(service.leases, l); len(service.leases) == 0 {
			delete(s.byName, name)
		}
	}
}

func (s *serviceRecords) stats() []ServiceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]ServiceStats, 0, len(s.byName))
	for name, service := range s.byName {
		sum := ServiceStats{Service: name, Attempts: service.attempts, Failures: service.failures, Registered: len(service.leases) > 0}
		for _, r := range service.leases {
			sum.Registered = sum.Registered && r.registered
			if sum.ConfirmedAt.IsZero() || r.confirmedAt.Before(sum.ConfirmedAt) {
				sum.ConfirmedAt = r.confirmedAt
			}
		}
		all = append(all, sum)
	}
	slices.SortFunc(all, func(a, b ServiceStats) int { return cmp.Compare(a.Service, b.Service) })
	return all
}
