package scale_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// servers stands in for the servers of a Consul datacenter and the agents before them. It
// answers blocking queries for the health of a service, at a bounded rate.
type servers struct {
	began     time.Time
	perAnswer time.Duration // of work on one answer
	busyUntil []time.Time   // by server; the one at the front works first

	mu        sync.Mutex
	index     uint64
	services  map[string]*service
	instances map[string]*instance // by address, those that have left included
	lastHost  int
	down      chan struct{} // closed during an outage
	up        bool
	agents    []agent
	seconds   []traffic // by second since it began
}

// service is a name in the catalog.
type service struct {
	name      string
	index     uint64
	instances []*instance
	body      []byte        // the answer to a query for its health
	changed   chan struct{} // closed at the next change
}

// instance also counts the connections to it. Times are since the simulation began.
type instance struct {
	address        string
	open           atomic.Int64
	registered     bool
	changedAt      time.Duration // registered, or deregistered
	lastConnect    atomic.Int64
	lastDisconnect atomic.Int64
}

// agent counts what one node's agent is sent.
type agent struct {
	open, mostOpen int // queries, each on a connection of its own
	second         int // the latest one with a query
	inSecond, most int // queries in it, and in the busiest
}

// traffic is what all agents together are sent within a second.
type traffic struct{ queries, answers int }

func newServers(n, agents, answersPerSecond int) *servers {
	s := &servers{
		began: time.Now(), perAnswer: time.Second / time.Duration(answersPerSecond),
		busyUntil: make([]time.Time, n), index: 1, services: map[string]*service{}, instances: map[string]*instance{},
		down: make(chan struct{}), up: true, agents: make([]agent, agents),
	}
	return s
}

func (s *servers) now() time.Duration { return time.Since(s.began) }

// register adds n instances of a service in one change.
func (s *servers) register(name string, n int) []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.services[name]
	if svc == nil {
		svc = &service{name: name, changed: make(chan struct{})}
		s.services[name] = svc
	}
	var added []*instance
	for range n {
		s.lastHost++
		i := &instance{address: fmt.Sprintf("10.%d.%d.%d:8080", s.lastHost>>16, s.lastHost>>8&255, s.lastHost&255), registered: true, changedAt: s.now()}
		s.instances[i.address] = i
		added = append(added, i)
	}
	svc.instances = append(svc.instances, added...)
	s.change(svc)
	return added
}

func (s *servers) deregister(name string, gone *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.services[name]
	svc.instances = slices.DeleteFunc(slices.Clone(svc.instances), func(i *instance) bool { return i == gone })
	gone.registered, gone.changedAt = false, s.now()
	s.change(svc)
}

// change wakes the queries that wait for svc. The caller holds s.mu.
func (s *servers) change(svc *service) {
	s.index++
	svc.index = s.index
	items := make([]string, len(svc.instances))
	for n, i := range svc.instances {
		items[n] = entry(svc.name, i.address)
	}
	svc.body = []byte("[" + strings.Join(items, ",") + "]")
	close(svc.changed)
	svc.changed = make(chan struct{})
}

// entry is an instance as Consul lists it, some 1.3 KB.
func entry(name, address string) string {
	host, port, _ := strings.Cut(address, ":")
	id := name + "-" + strings.ReplaceAll(host, ".", "-") + "-" + port
	return fmt.Sprintf(`{"Node":{"ID":"8f2c1f0a-6b1e-4c55-9d5e-1f0a8f2c4c55","Node":"node-%[2]s","Address":"%[2]s","Datacenter":"dc1","TaggedAddresses":{"lan":"%[2]s","lan_ipv4":"%[2]s","wan":"%[2]s","wan_ipv4":"%[2]s"},"Meta":{"consul-network-segment":"","consul-version":"1.22.7"},"CreateIndex":12,"ModifyIndex":14},`+
		`"Service":{"ID":"%[1]s","Service":"%[4]s","Tags":["v1"],"Address":"%[2]s","TaggedAddresses":{"lan_ipv4":{"Address":"%[2]s","Port":%[3]s},"wan_ipv4":{"Address":"%[2]s","Port":%[3]s}},"Meta":{"zone":"eu-west-1a"},"Port":%[3]s,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{},"PeerName":"","CreateIndex":31,"ModifyIndex":31},`+
		`"Checks":[{"Node":"node-%[2]s","CheckID":"serfHealth","Name":"Serf Health Status","Status":"passing","Notes":"","Output":"Agent alive and reachable","ServiceID":"","ServiceName":"","ServiceTags":[],"Type":"","ExposedPort":0,"Definition":{},"CreateIndex":12,"ModifyIndex":12},`+
		`{"Node":"node-%[2]s","CheckID":"service:%[1]s","Name":"gRPC health","Status":"passing","Notes":"","Output":"gRPC check %[2]s:%[3]s/%[4]s: success","ServiceID":"%[1]s","ServiceName":"%[4]s","ServiceTags":["v1"],"Type":"grpc","ExposedPort":0,"Definition":{},"CreateIndex":31,"ModifyIndex":33}]}`,
		id, host, port, name)
}

// fail makes all agents refuse, from now on and for queries that wait, until recover.
func (s *servers) fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = false
	close(s.down)
}

func (s *servers) recover() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up, s.down = true, make(chan struct{})
}

// through is the transport of a process to the agent of its node.
type through struct {
	*servers
	node int
}

// RoundTrip answers a query once the service has changed, its wait is over, or it does not
// block, and a server has had the time for it.
func (t through) RoundTrip(r *http.Request) (*http.Response, error) {
	s := t.servers
	name, isHealth := strings.CutPrefix(r.URL.Path, "/v1/health/service/")
	if !isHealth {
		return reply(r, 0, []byte("[]")), nil
	}
	options := r.URL.Query()
	index, _ := strconv.ParseUint(options.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(options.Get("wait"))
	if s.arrive(t.node); index > 0 {
		if err := s.block(r, name, index, wait+rand.N(wait/16+1)); err != nil {
			s.leave(t.node)
			return nil, err
		}
	}
	err := s.work(r)
	s.leave(t.node)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at().answers++
	svc := s.services[name]
	return reply(r, svc.index, svc.body), nil
}

func reply(r *http.Request, index uint64, body []byte) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"X-Consul-Index": {strconv.FormatUint(index, 10)}, "X-Consul-Knownleader": {"true"}, "X-Consul-Lastcontact": {"0"}},
		Body:   io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// at is the traffic of this second. The caller holds s.mu.
func (s *servers) at() *traffic {
	second := int(s.now() / time.Second)
	for len(s.seconds) <= second {
		s.seconds = append(s.seconds, traffic{})
	}
	return &s.seconds[second]
}

func (s *servers) arrive(node int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at().queries++
	a := &s.agents[node]
	if second := int(s.now() / time.Second); second != a.second {
		a.second, a.inSecond = second, 0
	}
	a.open++
	a.inSecond++
	a.mostOpen, a.most = max(a.mostOpen, a.open), max(a.most, a.inSecond)
}

func (s *servers) leave(node int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents[node].open--
}

// block waits for a change beyond index.
func (s *servers) block(r *http.Request, name string, index uint64, wait time.Duration) error {
	s.mu.Lock()
	svc := s.services[name]
	changed, down, late := svc.changed, s.down, svc.index > index
	s.mu.Unlock()
	if late {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-down:
		return syscall.ECONNREFUSED
	case <-r.Context().Done():
		return r.Context().Err()
	}
	return nil
}

// work waits until the server that is free first has made the answer.
func (s *servers) work(r *http.Request) error {
	s.mu.Lock()
	down, up := s.down, s.up
	at := 0
	for n, until := range s.busyUntil {
		if until.Before(s.busyUntil[at]) {
			at = n
		}
	}
	now := time.Now()
	if up {
		if s.busyUntil[at].Before(now) {
			s.busyUntil[at] = now
		}
		s.busyUntil[at] = s.busyUntil[at].Add(s.perAnswer)
	}
	ready := s.busyUntil[at].Sub(now)
	s.mu.Unlock()
	if !up {
		return syscall.ECONNREFUSED
	}
	timer := time.NewTimer(ready)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-down:
		return syscall.ECONNREFUSED
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// span is the traffic from one time to another.
type span struct {
	queries, answers, busiest int // busiest: most queries in a second
	seconds                   int
}

func (p span) perSecond() float64 { return float64(p.queries) / float64(max(p.seconds, 1)) }

func (s *servers) span(from, to time.Duration) (p span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.seconds = int((to - from) / time.Second)
	for n := int(from / time.Second); n < min(int(to/time.Second), len(s.seconds)); n++ {
		p.queries += s.seconds[n].queries
		p.answers += s.seconds[n].answers
		p.busiest = max(p.busiest, s.seconds[n].queries)
	}
	return p
}

// busiestAgent returns the most queries that one agent was sent in a second, and the most that
// were open at one. It forgets them.
func (s *servers) busiestAgent() (perSecond, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.agents {
		a := &s.agents[n]
		perSecond, open = max(perSecond, a.most), max(open, a.mostOpen)
		a.most, a.mostOpen = 0, a.open
	}
	return perSecond, open
}
