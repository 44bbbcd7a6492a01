package consul

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Agent is what an agent reports of itself.
type Agent struct {
	Reached     bool   `json:"reached"` // it answered
	Version     string `json:"version"`
	Simulated   bool   `json:"simulated"` // it is not Consul but package consultest, which claims that version
	Node        string `json:"node"`
	NodeAddress string `json:"node_address"`
	Datacenter  string `json:"datacenter"`
	ACLs        bool   `json:"acls"` // it enforces access control
	// TLSForChecks is enable_agent_tls_for_checks: checks over TLS present the certificate of
	// the agent, and trust its authorities.
	TLSForChecks bool          `json:"tls_for_checks"`
	Leader       string        `json:"leader"`       // its address; empty: there is none, so nothing can be written
	ClockOffset  time.Duration `json:"clock_offset"` // how far its clock is ahead of ours, to about a second
}

// Agent returns what the agent reports of itself. Reached, Leader and ClockOffset, which need no
// permission, are set even if the rest cannot be read and an error is returned.
func (d *Directory) Agent(ctx context.Context) (Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var agent Agent
	var err error
	if agent.Leader, agent.ClockOffset, err = d.leader(ctx); err != nil {
		return agent, d.explain(err, "agent:read")
	}
	agent.Reached = true
	var self struct {
		Config      struct{ Version, Revision, NodeName, Datacenter string }
		DebugConfig struct{ ACLsEnabled, EnableAgentTLSForChecks bool }
		Member      struct{ Addr string }
	}
	err = d.get(ctx, "/v1/agent/self", &self)
	if err != nil {
		agent.ACLs = statusOf(err) == http.StatusForbidden
		return agent, d.explain(err, "agent:read")
	}
	agent.Version, agent.Node, agent.Datacenter = self.Config.Version, self.Config.NodeName, self.Config.Datacenter
	agent.Simulated = self.Config.Revision == "consultest"
	agent.NodeAddress, agent.ACLs, agent.TLSForChecks = self.Member.Addr, self.DebugConfig.ACLsEnabled, self.DebugConfig.EnableAgentTLSForChecks
	return agent, nil
}

// leader returns the address of the leader, and how far the agent's clock is ahead.
func (d *Directory) leader(ctx context.Context) (leader string, clockOffset time.Duration, err error) {
	settings := d.settings
	clock := &clockReader{RoundTripper: d.settings.HttpClient.Transport}
	withClock := *d.settings.HttpClient
	withClock.Transport = clock // api.QueryMeta has no Date
	settings.HttpClient = &withClock
	client, err := api.NewClient(&settings)
	if err != nil {
		return "", 0, err
	}
	_, err = client.Raw().Query("/v1/status/leader", &leader, (&api.QueryOptions{}).WithContext(ctx))
	return leader, clock.offset, err
}

// clockReader is a transport that reads the server's clock from the Date of an answer.
type clockReader struct {
	http.RoundTripper
	offset time.Duration
}

func (c *clockReader) RoundTrip(request *http.Request) (*http.Response, error) {
	sentAt := time.Now()
	response, err := c.RoundTripper.RoundTrip(request)
	if err == nil {
		c.offset = clockOffset(response.Header.Get("Date"), sentAt, time.Now())
	}
	return response, err
}

// clockOffset assumes that the answer was dated half way through the round trip. A date
// is cut to the second, so half a second is added, and less than a second is taken for 0.
func clockOffset(date string, sentAt, answeredAt time.Time) time.Duration {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return 0
	}
	ours := sentAt.Add(answeredAt.Sub(sentAt) / 2)
	return theirs.Add(time.Second / 2).Sub(ours).Truncate(time.Second)
}

// CheckToken returns why the agent rejects the token of this directory. It returns nil where
// ACLs are disabled.
func (d *Directory) CheckToken(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := d.get(ctx, "/v1/acl/token/self", &struct{}{})
	switch {
	case err == nil, strings.Contains(err.Error(), "ACL support disabled"):
		return nil
	case statusOf(err) != http.StatusForbidden:
		return d.explain(err, "acl:read")
	case !d.hasToken:
		return fmt.Errorf("%s has ACLs and no token is given: set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", d.Name())
	default:
		return fmt.Errorf("%s rejects the token: it was deleted, has expired or belongs to another datacenter: set another in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", d.Name())
	}
}

// maxOutput has room for the reason of a failed TLS handshake, which comes last.
const maxOutput = 500

// Check is one health check of an instance.
type Check struct {
	Name   string         `json:"name"`
	Status catalog.Status `json:"status"`
	Output string         `json:"output"` // its last output in one line, or the reason for maintenance
	Node   bool           `json:"node"`   // a check of the node, shared by all its services
}

// Entry is a registered instance, callable or not.
type Entry struct {
	catalog.Instance
	Checks []Check
}

// Service is a registered name, with the number of its instances by state.
type Service struct {
	Name     string   `json:"name"`
	Tags     []string `json:"tags"` // of all instances, sorted
	Passing  int      `json:"passing"`
	Warning  int      `json:"warning"`
	Critical int      `json:"critical"`
	Error    string   `json:"error,omitempty"` // why its instances could not be read
}

// maxReads bounds the concurrent requests of one listing.
const maxReads = 8

// Services lists the services of a datacenter, sorted by name; empty is the agent's own. Consul's
// own service, "consul", is left out. It sends one request for each service, eight at once.
// A service that cannot be read has its Error set; if none can, an error is returned.
func (d *Directory) Services(ctx context.Context, datacenter string) ([]Service, error) {
	names, err := d.ServiceNames(ctx, datacenter)
	if err != nil {
		return nil, err
	}
	services, errs := make([]Service, len(names)), make([]error, len(names))
	each(len(names), func(i int) {
		services[i], errs[i] = d.countInstances(ctx, catalog.Query{Service: names[i], Datacenter: datacenter})
	})
	if len(names) > 0 && !slices.Contains(errs, nil) {
		return nil, errs[0]
	}
	return services, context.Cause(ctx)
}

// ServiceNames lists the names that Services does, by one request.
func (d *Directory) ServiceNames(ctx context.Context, datacenter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var names []string
	listed := decoding(ctx, func(body io.Reader) error {
		return eachName(body, func(name string) { names = append(names, name) })
	})
	options := &api.QueryOptions{Datacenter: datacenter, AllowStale: true}
	_, meta, err := d.api.Catalog().Services(options.WithContext(listed))
	if err != nil {
		return nil, d.explainQuery(err, catalog.Query{Datacenter: datacenter})
	}
	if len(names) == 0 && meta.ResultsFilteredByACLs {
		return nil, d.filtered(catalog.Query{})
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool { return name == "consul" }), nil
}

// each does work for 0 to n-1, at most maxReads at once.
func each(n int, work func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, maxReads) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	workers.Wait()
}

// countInstances counts the instances of one service by their state.
func (d *Directory) countInstances(ctx context.Context, q catalog.Query) (Service, error) {
	tags, count := map[string]bool{}, map[catalog.Status]int{}
	err := d.allEntries(ctx, q, func(e *entry) {
		for _, tag := range e.Service.Tags {
			tags[tag] = true
		}
		count[status(e.Checks...)]++
	})
	if err != nil {
		return Service{Name: q.Service, Tags: []string{}, Error: err.Error()}, err
	}
	return Service{
		Name: q.Service, Tags: append([]string{}, slices.Sorted(maps.Keys(tags))...),
		Passing: count[catalog.Passing], Warning: count[catalog.Warning], Critical: count[catalog.Critical],
	}, nil
}

// Entries lists all instances that match q, in any state, sorted by address and id or, with
// Near, by round trip. It includes those without an address and all that share one.
func (d *Directory) Entries(ctx context.Context, q catalog.Query) ([]Entry, error) {
	entries := []Entry{}
	skipped := 0
	err := d.allEntries(ctx, q, func(e *entry) {
		if len(entries) == maxInstances {
			skipped++
			return
		}
		entries = append(entries, Entry{instance(e, ""), checks(e.Checks)})
	})
	if err != nil {
		return nil, err
	}
	if skipped > 0 {
		d.log.Warn("the service has more instances than can be listed: the rest is left out", "service", q.Service, "limit", maxInstances, "left_out", skipped)
	}
	if q.Near == "" {
		slices.SortFunc(entries, func(a, b Entry) int {
			return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID))
		})
	}
	return entries, nil
}

// maxChecks bounds the checks of one instance that are listed.
const maxChecks = 64

func checks(list []*healthCheck) []Check {
	listed := make([]Check, 0, min(len(list), maxChecks))
	for _, c := range list {
		if c != nil && len(listed) < maxChecks {
			listed = append(listed, Check{Name: c.Name, Status: status(c), Output: inOneLine(c.reason(), maxOutput), Node: c.ServiceID == ""})
		}
	}
	return listed
}

// reason returns the output of a check or, for maintenance, the operator's reason, which
// Consul writes into the notes.
func (c *healthCheck) reason() string {
	if c.maintenance() {
		return cmp.Or(c.Output, c.Notes)
	}
	return c.Output
}

// allEntries reads the instances of one service in any state.
func (d *Directory) allEntries(ctx context.Context, q catalog.Query, take func(*entry)) error {
	if err := checkName("Service", q.Service); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	n, meta, err := d.entries(ctx, q, optionsOf(q), take)
	switch {
	case err != nil:
		return d.explainQuery(err, q)
	case n == 0 && meta.ResultsFilteredByACLs:
		return d.filtered(q)
	}
	return nil
}
