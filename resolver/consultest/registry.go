package consultest

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// registry is the agent: its instances and checks, the timers and probes of these, and the
// catalog that they are written to.
type registry struct {
	config
	started time.Time
	work    sync.WaitGroup // handlers, probes, timers, the accept loop

	mu     sync.Mutex // never held while waiting; guards checks, too
	st     *state
	ca     authority // outlives the state of a restarted agent, whose leaves are lost
	closed bool
}

// setServiceStatus is SetStatus with s.mu held.
func (s *registry) setServiceStatus(serviceID, status string) error {
	in := s.st.instances[serviceID]
	if in == nil {
		return unknownService(serviceID)
	}
	if !validStatus(status) {
		return badRequest("Invalid check status: '%s'", status)
	}
	if len(in.checks) == 0 {
		s.addCheck(newCheck(Check{Status: status}, in, "service:"+serviceID, text))
		return nil
	}
	for _, c := range in.checks {
		s.setStatus(c, status, "")
	}
	return nil
}

func unknownService(id string) error {
	return httpError{http.StatusNotFound, fmt.Sprintf("Unknown service ID %q. Ensure that the service ID is passed, not the service name.", id)}
}

// own returns an instance of the agent; that of Consul itself is only in the catalog.
func (s *registry) own(id string) *instance {
	if in := s.st.instances[id]; in != nil && !in.catalogOnly {
		return in
	}
	return nil
}

// register is Register with s.mu held, as are all below. With replace, checks
// that svc does not name are removed.
func (s *registry) register(svc Service, replace bool) error {
	svc, err := svc.normalize()
	if err != nil {
		return err
	}
	old := s.st.instances[svc.ID]
	if old != nil && old.catalogOnly {
		return badRequest("service ID %q is Consul's own: take another", svc.ID)
	}
	for i, def := range svc.Checks {
		if old := s.st.checks[checkID(def, svc, i)]; old != nil && old.catalogOnly {
			return badRequest("check ID %q is Consul's own: take another", old.id)
		}
	}
	added := 0
	if old == nil {
		added = 1
	}
	if full := s.st.full(added, len(svc.Checks)); full != "" {
		return httpError{http.StatusInsufficientStorage, full}
	}
	idx := s.st.index + 1
	changed := s.st.put(svc, idx)
	in := s.st.instances[svc.ID]
	mentioned := make(map[string]bool)
	for i, def := range svc.Checks {
		c := newCheck(def, in, checkID(def, svc, i), text)
		mentioned[c.id] = true
		changed = s.replaceCheck(c, idx) || changed
	}
	for id, c := range in.checks {
		if replace && !mentioned[id] {
			s.stopCheck(c)
			s.st.removeCheck(c, idx)
			changed = true
		}
	}
	if changed {
		s.st.index = idx
		s.st.wake()
	}
	return nil
}

func checkID(def Check, svc Service, i int) string {
	switch {
	case def.CheckID != "":
		return def.CheckID
	case len(svc.Checks) > 1:
		return fmt.Sprintf("service:%s:%d", svc.ID, i+1)
	default:
		return "service:" + svc.ID
	}
}

// replaceCheck starts c in place of a check with the same id, whose state it
// inherits, and reports whether the catalog changed.
func (s *registry) replaceCheck(c *check, idx uint64) bool {
	if old := s.st.checks[c.id]; old != nil {
		s.stopCheck(old)
		c.status, c.output, c.catalogOutput, c.criticalSince = old.status, old.output, old.catalogOutput, old.criticalSince
	}
	changed := s.st.putCheck(c, idx)
	s.startCheck(c)
	return changed
}

// addCheck is replaceCheck with an index of its own.
func (s *registry) addCheck(c *check) {
	idx := s.st.index + 1
	if s.replaceCheck(c, idx) {
		s.st.index = idx
		s.st.wake()
	}
}

func (s *registry) removeCheck(c *check) {
	s.stopCheck(c)
	s.st.removeCheck(c, s.st.next())
	s.st.wake()
}

func (s *registry) deregister(id string) error {
	in := s.own(id)
	if in == nil {
		return unknownService(id)
	}
	for _, c := range in.checks {
		s.stopCheck(c)
	}
	s.st.remove(in, s.st.next())
	s.st.wake()
	return nil
}

// maintain puts in into maintenance mode, which is a critical check, or takes it
// out. The caller holds s.mu.
func (s *registry) maintain(in *instance, enable bool, reason string) {
	id := "_service_maintenance:" + in.ID
	old := s.st.checks[id]
	switch {
	case enable && old == nil:
		if reason == "" {
			reason = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message."
		}
		c := newCheck(Check{Name: "Service Maintenance Mode", Notes: reason}, in, id, text)
		c.kind = "maintenance"
		s.addCheck(c)
	case !enable && old != nil:
		s.removeCheck(old)
	}
}

// Times of a Consul agent with its default configuration.
const (
	minInterval     = time.Second
	defaultTimeout  = 10 * time.Second
	reapInterval    = 30 * time.Second
	minReapAfter    = time.Minute
	outputSyncAfter = 5 * time.Minute
	maxOutput       = 4096
)

// check is a check of the agent and its image in the catalog.
type check struct {
	Check
	id, kind, interval, timeout string
	serviceID, serviceName      string
	serviceTags                 []string
	catalogOnly                 bool

	status        string
	output        string // as the agent has it
	catalogOutput string // as the catalog has it: Consul writes a change of output alone late
	create        uint64
	modify        uint64

	criticalSince      time.Time
	expire, reap, sync alarm
	stop               context.CancelFunc // of the probe
	failures, success  int                // in a row
}

// alarm is a timer whose callback Server.Close waits for. Guarded by registry.mu.
type alarm struct {
	timer *time.Timer
	set   int // which setting a late callback belongs to
}

// setAlarm runs ring after d, with s.mu held, unless cleared or set anew before.
func (s *registry) setAlarm(a *alarm, d time.Duration, ring func()) {
	s.clearAlarm(a)
	if s.closed {
		return
	}
	set := a.set
	s.work.Add(1)
	a.timer = time.AfterFunc(d, func() {
		defer s.work.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.set == set && !s.closed {
			a.timer = nil
			ring()
		}
	})
}

func (s *registry) clearAlarm(a *alarm) {
	a.set++
	if a.timer != nil && a.timer.Stop() {
		s.work.Done()
	}
	a.timer = nil
}

// startCheck starts the timers and probes of c. Like all below but watch, it is called with s.mu held.
func (s *registry) startCheck(c *check) {
	if c.status == HealthCritical && c.criticalSince.IsZero() {
		c.criticalSince = time.Now()
	}
	s.armReaper(c)
	if c.TTL > 0 {
		s.setAlarm(&c.expire, c.TTL, func() { s.expired(c) })
	}
	if c.Interval == 0 || s.closed {
		return
	}
	c.success, c.failures = c.SuccessBeforePassing, c.FailuresBeforeCritical
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	s.work.Go(func() { s.watch(ctx, c) })
}

func (s *registry) stopCheck(c *check) {
	s.clearAlarm(&c.expire)
	s.clearAlarm(&c.reap)
	s.clearAlarm(&c.sync)
	if c.stop != nil {
		c.stop()
	}
}

func (s *registry) stopAllChecks() {
	for _, c := range s.st.checks {
		s.stopCheck(c)
	}
}

// renew stores the status that the owner of a TTL check sends, and restarts its TTL.
func (s *registry) renew(c *check, status, output string) {
	if len(output) > maxOutput {
		output = fmt.Sprintf("%s ... (captured %d of %d bytes)", output[:maxOutput], maxOutput, len(output))
	}
	s.setStatus(c, status, output)
	if c.TTL > 0 {
		s.setAlarm(&c.expire, c.TTL, func() { s.expired(c) })
	}
}

func (s *registry) expired(c *check) {
	output := "TTL expired"
	if c.output != "" {
		output += " (last output before timeout follows): " + c.output
	}
	s.setStatus(c, HealthCritical, output)
}

// setStatus records a result. A change of state is written to the catalog at
// once; a change of output alone only after minutes, so that heartbeats do not
// wake all queries (Consul: check_update_interval).
func (s *registry) setStatus(c *check, status, output string) {
	if status == HealthCritical && c.criticalSince.IsZero() {
		c.criticalSince = time.Now()
	} else if status != HealthCritical {
		c.criticalSince = time.Time{}
	}
	same := c.status == status
	if same && c.output == output {
		return
	}
	c.status, c.output = status, output
	if !same {
		s.armReaper(c)
		s.syncCheck(c)
		return
	}
	if c.sync.timer == nil {
		s.setAlarm(&c.sync, outputSyncAfter/2+rand.N(outputSyncAfter), func() { s.syncCheck(c) })
	}
}

// syncCheck writes the agent's view of c to the catalog.
func (s *registry) syncCheck(c *check) {
	s.clearAlarm(&c.sync)
	idx := s.st.next()
	c.catalogOutput, c.modify = c.output, idx
	s.st.touchCheck(c, idx)
	s.st.wake()
}

// armReaper removes the service of a check that stays critical. Consul looks
// every 30 seconds; the alarm rings when that would be.
func (s *registry) armReaper(c *check) {
	s.clearAlarm(&c.reap)
	if c.DeregisterCriticalServiceAfter <= 0 || c.serviceID == "" || c.criticalSince.IsZero() {
		return
	}
	due := c.criticalSince.Add(max(c.DeregisterCriticalServiceAfter, minReapAfter))
	looks := due.Sub(s.started)/reapInterval + 1
	look := s.started.Add(looks * reapInterval)
	s.setAlarm(&c.reap, time.Until(look), func() { s.deregister(c.serviceID) })
}

// watch probes until ctx ends. The first probe comes after a random part of the
// interval, so that the checks of an agent do not run in step.
func (s *registry) watch(ctx context.Context, c *check) {
	interval := max(c.Interval, minInterval)
	timer := time.NewTimer(rand.N(interval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		probe, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, defaultTimeout))
		status, output := s.probe(probe, c.Check)
		cancel()
		s.mu.Lock()
		if ctx.Err() == nil {
			s.probed(c, status, output)
		}
		s.mu.Unlock()
		timer.Reset(interval)
	}
}

// probed counts results until enough of them agree. The counters start at their
// thresholds, so that the very first result counts.
func (s *registry) probed(c *check, status, output string) {
	if status == HealthPassing || status == HealthWarning {
		c.success, c.failures = c.success+1, 0
		if c.success >= c.SuccessBeforePassing {
			s.setStatus(c, status, output)
		}
		return
	}
	c.success, c.failures = 0, c.failures+1
	switch {
	case c.failures >= c.FailuresBeforeCritical:
		s.setStatus(c, HealthCritical, output)
	case c.failures >= cmp.Or(c.FailuresBeforeWarning, c.FailuresBeforeCritical):
		s.setStatus(c, HealthWarning, output)
	}
}

// sameCheck reports whether the catalog would see no difference.
func sameCheck(a, b *check) bool {
	return a.Name == b.Name && a.Notes == b.Notes && a.status == b.status && a.catalogOutput == b.catalogOutput &&
		a.kind == b.kind && a.interval == b.interval && a.timeout == b.timeout &&
		a.serviceID == b.serviceID && a.serviceName == b.serviceName
}

// dialer connects as [net.Dialer.DialContext] does.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// probe is the Probe over the network, with the outputs that Consul writes.
func (d dialer) probe(ctx context.Context, c Check) (status, output string) {
	switch {
	case c.GRPC != "":
		return d.probeGRPC(ctx, c)
	case c.HTTP != "":
		return d.probeHTTP(ctx, c)
	default:
		return d.probeTCP(ctx, c)
	}
}

func (c Check) tlsConfig() *tls.Config {
	// The registration decides about verification.
	return &tls.Config{ServerName: c.TLSServerName, InsecureSkipVerify: c.TLSSkipVerify} //nolint:gosec
}

func (d dialer) probeGRPC(ctx context.Context, c Check) (status, output string) {
	creds := insecure.NewCredentials()
	if c.GRPCUseTLS {
		creds = credentials.NewTLS(c.tlsConfig())
	}
	addr, service, _ := strings.Cut(c.GRPC, "/")
	// Neither a proxy nor a user's service config applies to a health check.
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return d(ctx, "tcp", address) }))
	if err != nil {
		return HealthCritical, err.Error()
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return HealthCritical, err.Error()
	}
	if res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return HealthCritical, fmt.Sprintf("gRPC %s serving status: %s", c.GRPC, res.GetStatus())
	}
	return HealthPassing, fmt.Sprintf("gRPC check %s: success", c.GRPC)
}

func (d dialer) probeHTTP(ctx context.Context, c Check) (status, output string) {
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, c.HTTP, strings.NewReader(c.Body))
	if err != nil {
		return HealthCritical, err.Error()
	}
	for k, v := range c.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Host = req.Header.Get("Host")
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "Consul Health Check")
	}
	client := &http.Client{Transport: &http.Transport{DialContext: d, DisableKeepAlives: true, TLSClientConfig: c.tlsConfig()}}
	if c.DisableRedirects {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	res, err := client.Do(req)
	if err != nil {
		return HealthCritical, err.Error()
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	output = fmt.Sprintf("HTTP %s %s: %s Output: %s", method, c.HTTP, res.Status, body)
	switch {
	case res.StatusCode >= 200 && res.StatusCode <= 299:
		return HealthPassing, output
	case res.StatusCode == http.StatusTooManyRequests:
		return HealthWarning, output
	default:
		return HealthCritical, output
	}
}

func (d dialer) probeTCP(ctx context.Context, c Check) (status, output string) {
	conn, err := d(ctx, "tcp", c.TCP)
	if err != nil {
		return HealthCritical, err.Error()
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	if c.TCPUseTLS {
		settings := c.tlsConfig()
		if host, _, _ := net.SplitHostPort(c.TCP); settings.ServerName == "" {
			settings.ServerName = host
		}
		if err := tls.Client(conn, settings).HandshakeContext(ctx); err != nil {
			return HealthCritical, err.Error()
		}
	}
	return HealthPassing, fmt.Sprintf("TCP connect %s: Success", c.TCP)
}
