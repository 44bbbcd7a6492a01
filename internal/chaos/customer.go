package chaos

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/hosts"
	"github.com/meshlite-go/meshlite/internal/openloop"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

const (
	service     = "catalog"
	rate        = 300 // calls a second
	callTimeout = time.Second
	maxInFlight = 2000

	attemptTimeout = "250ms"
)

// customer is a client of the mesh and its calls. It has a runtime of its own, as
// a program has that was just started.
type customer struct {
	tally     *tally
	loop      *openloop.Loop
	directory *consul.Directory
	conn      *grpc.ClientConn
	client    catalogv1.CatalogServiceClient
	host      *hosts.Host
	runtime   *meshlite.Runtime
	page      *admin.Server // nil unless the row needs one

	neighbours []*grpc.ClientConn // to other services, without calls
}

// needs are what a row asks of its customer.
type needs struct {
	proxy       bool          // a fault proxy stands between it and Consul
	wait        time.Duration // of its blocking queries, 0 for the default
	snapshots   bool          // it stores Consul's answers on disk
	maintenance bool          // it has resolver.WithMaintenance
	elsewhere   bool          // it tries elsewhere what no handler has seen
	target      string        // what it calls, where that is not the service by its own name
	hosts       bool          // it, Consul and the instances are on hosts of their own
	attempts    uint32        // that a call may have, each within attemptTimeout; 0 is one, without a bound
	page        bool          // it serves its admin page
	neighbours  int           // how many other services it has channels to
}

// newCustomer makes a client of the agent at address. It makes no calls yet. Folder is
// where it stores snapshots, empty for none.
func newCustomer(host *hosts.Host, address string, n needs, folder string, log *slog.Logger) (*customer, error) {
	c := &customer{tally: newTally(), loop: openloop.New(maxInFlight), host: host}
	var err error
	if c.runtime, err = meshlite.NewRuntime(meshlite.RuntimeConfig{}); err != nil {
		return nil, err
	}
	if c.directory, err = consul.New(consul.Config{Address: address, Wait: n.wait, Transport: directoryTransport(host), Logger: log}); err != nil {
		return nil, err
	}
	options := []meshlite.ClientOption{
		meshlite.WithPlaintext(), meshlite.WithDirectory(c.directory), meshlite.WithLogger(log),
		meshlite.WithRuntime(c.runtime), meshlite.WithPolicy(bare(n)),
		meshlite.WithDialOptions(grpc.WithContextDialer(c.dial)),
	}
	if n.maintenance {
		options = append(options, meshlite.WithResolver(resolver.WithMaintenance()))
	}
	if folder != "" {
		snapshots, err := snapshot.Open(folder)
		if err != nil {
			c.directory.Close()
			return nil, err
		}
		options = append(options, meshlite.WithResolver(resolver.WithSnapshots(snapshots)))
	}
	if c.conn, err = meshlite.NewClient("consul:///"+cmp.Or(n.target, service), options...); err != nil {
		c.directory.Close()
		return nil, err
	}
	c.client = catalogv1.NewCatalogServiceClient(c.conn)
	if err := c.complete(n, log); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// complete opens what is needed beside the channel.
func (c *customer) complete(n needs, log *slog.Logger) error {
	for i := range n.neighbours {
		conn, err := meshlite.NewClient("consul:///"+neighbour(i), meshlite.WithPlaintext(), meshlite.WithDirectory(c.directory),
			meshlite.WithLogger(log), meshlite.WithRuntime(c.runtime))
		if err != nil {
			return err
		}
		conn.Connect()
		c.neighbours = append(c.neighbours, conn)
	}
	if n.page {
		return c.servePage()
	}
	return nil
}

// neighbour is the name of another service.
func neighbour(n int) string { return fmt.Sprintf("neighbour-%d", n) }

// neighboursReady reports whether the channels to other services are connected.
func (c *customer) neighboursReady() bool {
	return !slices.ContainsFunc(c.neighbours, func(conn *grpc.ClientConn) bool { return conn.GetState() != connectivity.Ready })
}

// servePage serves the admin page of the runtime.
func (c *customer) servePage() error {
	handler, err := c.runtime.Handler()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.page = admin.Serve(listener, handler)
	return nil
}

// directoryTransport is that of resolver/consul by default, from a host of its own.
func directoryTransport(host *hosts.Host) http.RoundTripper {
	if host == nil {
		return nil
	}
	return &http.Transport{DialContext: host.Dialer(net.Dialer{
		Timeout:         10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 2},
	})}
}

// bare takes out of the contract what hides a fault: retries and the cache. What no
// handler has seen is tried elsewhere where no rule says one attempt.
func bare(n needs) *policyv1.ServicePolicy {
	once, never, attempt := uint32(1), "0s", attemptTimeout
	policy := &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: &never}}
	switch {
	case n.attempts > 0:
		policy.Retry = &policyv1.RetryRule{MaxAttempts: &n.attempts, PerAttemptTimeout: &attempt, Codes: []string{"UNAVAILABLE", "DEADLINE_EXCEEDED"}}
	case !n.elsewhere:
		policy.Retry = &policyv1.RetryRule{MaxAttempts: &once}
	}
	return &policyv1.ServicePolicy{Default: policy}
}

func (c *customer) dial(ctx context.Context, address string) (net.Conn, error) {
	c.tally.dial(address)
	return c.host.Dialer(net.Dialer{})(ctx, "tcp", address)
}

// share is the part of all calls that an arm of the service has now, by the client's own metrics.
// It is -1 for an arm that there is not.
func (c *customer) share(arm string) float64 { return c.ofArm("meshlite_route_arm_share_ratio", arm) }

// away is the part of all calls that go to failover targets now, by the same.
func (c *customer) away() float64 { return c.ofArm("meshlite_route_arm_failover_ratio", service) }

// ofArm is the value of a gauge of an arm.
func (c *customer) ofArm(gauge, arm string) float64 {
	families, err := c.runtime.Registry().Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == gauge && slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
				return l.GetName() == "arm" && l.GetValue() == arm
			}) {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// begin calls until end, or until ctx ends.
func (c *customer) begin(ctx context.Context) {
	c.loop.Go(ctx, time.Now(), openloop.Rate(rate), func(_ int, due time.Time) func() {
		return func() { c.call(ctx, due) }
	})
}

func (c *customer) call(ctx context.Context, due time.Time) {
	record := attempt.New()
	timed, cancel := context.WithTimeout(attempt.NewContext(ctx, record), callTimeout)
	defer cancel()
	done := call{due: due, sent: time.Now()}
	_, done.err = c.client.GetSweet(timed, &catalogv1.GetSweetRequest{Id: "lemon-sherbet"})
	if picked := record.Latest().Picked(); picked != nil {
		done.instance = picked.Address
	}
	if ctx.Err() == nil { // a stop is no failure of the service
		c.tally.done(done)
	}
}

// end waits for the calls in flight and closes the client.
func (c *customer) end() {
	c.loop.Finish()
	if c.page != nil {
		_ = c.page.Close() // nobody asks it any more
	}
	c.conn.Close()
	for _, conn := range c.neighbours {
		conn.Close()
	}
	c.directory.Close()
}
