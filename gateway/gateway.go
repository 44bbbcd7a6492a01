package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

// Gateway serves services and sites over HTTP. It is an [http.Handler] and safe for
// concurrent use, and a prometheus.Collector.
type Gateway struct {
	config    Config
	log       *slog.Logger
	startedAt time.Time
	handler   http.Handler // the edge and what is below it
	sites     []site       // longest prefix first
	current   atomic.Pointer[routes]

	mu       sync.Mutex // of what follows, and for changing current
	services []*service
	watchers []*contract.Watcher
}

// service is one of Config.Services as it runs.
type service struct {
	Service
	contract *contract.Contract // the last one that was taken; nil is none
	leftOut  error              // why it is not served although its contract was read
}

// routes are all that is served at one time. They are immutable.
type routes struct {
	mux         *transcode.Mux
	description description
	unread      []Service // whose contracts were never read
	waiting     []string  // names of services that are not served
}

type site struct {
	prefix string
	http.Handler
}

// New makes a gateway and begins to read contracts. It does not wait for them. The errors
// of a Config name the field, its value and the fix. The owner calls Close.
func New(config Config) (*Gateway, error) {
	if err := config.finish(); err != nil {
		return nil, err
	}
	g := &Gateway{config: config, log: config.Logger, startedAt: time.Now()}
	g.handler = config.Edge.Handler(http.HandlerFunc(g.serve))
	for _, prefix := range slices.Sorted(maps.Keys(config.Sites)) {
		g.sites = append(g.sites, site{prefix, config.Sites[prefix]})
	}
	slices.SortStableFunc(g.sites, func(a, b site) int { return len(b.prefix) - len(a.prefix) })
	for _, s := range config.Services {
		g.services = append(g.services, &service{Service: s})
	}
	if err := g.update(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	for i, s := range config.Services {
		watcher, err := contract.Watch(contract.WatchConfig{
			Source: s.Contract, Changed: s.Changed, Interval: config.Interval, Name: s.Name, Logger: config.Logger,
			OnContract: func(offered *contract.Contract) error { return g.take(i, offered) },
		})
		if err != nil {
			g.Close()
			return nil, fmt.Errorf("gateway: service %q: %w", s.Name, err)
		}
		g.mu.Lock()
		g.watchers = append(g.watchers, watcher)
		g.mu.Unlock()
	}
	return g, nil
}

// Close ends the reading of contracts. The gateway still serves what it has; the channels
// are closed by whoever made them.
func (g *Gateway) Close() {
	g.mu.Lock()
	watchers := g.watchers
	g.mu.Unlock()
	for _, w := range watchers {
		w.Close()
	}
}

// update makes the first routes, before any contract was read.
func (g *Gateway) update() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	mux, err := g.build(nil)
	if err != nil {
		return err
	}
	g.swap(mux, nil)
	return nil
}

// take serves a contract that was read for a service, or returns why it is refused. Then
// nothing changes.
func (g *Gateway) take(i int, offered *contract.Contract) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.services[i]
	before, taken := s.contract, false
	defer func() {
		if !taken { // or a panic, which hostile descriptors may cause
			s.contract = before
		}
	}()
	s.contract = offered
	mux, leftOut, err := g.arrange()
	if err == nil {
		err = g.permitted(i, before, leftOut)
	}
	if err == nil && s.Contracts != nil {
		err = s.Contracts.Set(offered.Files)
	}
	if err != nil {
		return err
	}
	g.swap(mux, leftOut)
	taken = true
	if missing := s.missing(offered); len(missing) > 0 {
		g.log.Warn("the contract has no such service or method, and nothing is let out by that name", "service", s.Name, "offer", missing)
	}
	return nil
}

// permitted refuses a contract that is left out itself, and a changed one because of which
// another service would be.
func (g *Gateway) permitted(i int, before *contract.Contract, leftOut map[*service]error) error {
	if err := leftOut[g.services[i]]; err != nil {
		return err
	}
	for other, err := range leftOut {
		if before != nil && other.leftOut == nil {
			return fmt.Errorf("it conflicts with service %q: %w", other.Name, err)
		}
	}
	return nil
}

// arrange makes a mux of all contracts that were read. Where they are in conflict, services
// that are later in the config are left out.
func (g *Gateway) arrange() (*transcode.Mux, map[*service]error, error) {
	var read, served []*service
	for _, s := range g.services {
		if s.contract != nil {
			read = append(read, s)
		}
	}
	mux, err := g.build(read)
	if err == nil {
		return mux, nil, nil
	}
	leftOut := map[*service]error{}
	for _, s := range read {
		if _, err := g.build(append(slices.Clone(served), s)); err != nil {
			leftOut[s] = err
		} else {
			served = append(served, s)
		}
	}
	mux, err = g.build(served)
	return mux, leftOut, err
}

func (g *Gateway) build(services []*service) (*transcode.Mux, error) {
	config := g.config.Transcode
	config.Services = nil
	for _, s := range services {
		config.Services = append(config.Services, transcode.Service{
			Name: s.Name, Conn: s.Conn, Contract: s.contract, Offers: s.offers, Cache: cacheOf(s.Contracts), KeepRenderings: s.KeepRenderings,
		})
	}
	return transcode.New(config)
}

// swap serves mux from the next request on.
func (g *Gateway) swap(mux *transcode.Mux, leftOut map[*service]error) {
	next := &routes{mux: mux, description: describe(g.config.Info, mux, g.log)}
	for _, s := range g.services {
		if s.contract == nil {
			next.unread = append(next.unread, s.Service)
		}
		if s.contract == nil || leftOut[s] != nil {
			next.waiting = append(next.waiting, s.Name)
		}
	}
	for _, s := range g.services {
		if err := leftOut[s]; err != nil && s.leftOut == nil {
			g.log.Warn("service left out: its contract conflicts with that of another service", "service", s.Name, "err", err)
		}
		s.leftOut = leftOut[s]
	}
	g.current.Store(next)
}

// Stats are the figures of one service.
type Stats struct {
	Service  string    `json:"service"`
	Serving  bool      `json:"serving"` // its contract was read and is served
	Loads    uint64    `json:"loads"`
	Failures uint64    `json:"failures"`        // loads that brought no valid contract
	Refusals uint64    `json:"refusals"`        // contracts that conflict, or have an invalid policy
	Changes  uint64    `json:"changes"`         // contracts that were taken
	LoadedAt time.Time `json:"loaded_at"`       // when its source last answered with a valid contract
	Offers   []string  `json:"offers"`          // full names of the proto services of its contract
	Error    string    `json:"error,omitempty"` // of the last load, or why it is left out
}

// Stats returns the figures of all services, in the order of the config.
func (g *Gateway) Stats() []Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Stats, len(g.services))
	for i, s := range g.services {
		all[i] = Stats{Service: s.Name, Serving: s.contract != nil && s.leftOut == nil}
		if s.leftOut != nil {
			all[i].Error = s.leftOut.Error()
		}
		if s.contract != nil {
			for _, offered := range s.contract.Services {
				all[i].Offers = append(all[i].Offers, string(offered.FullName()))
			}
		}
		if i < len(g.watchers) {
			watched := g.watchers[i].State()
			all[i].Loads, all[i].Failures, all[i].Refusals, all[i].Changes = watched.Loads, watched.Failures, watched.Refusals, watched.Changes
			all[i].LoadedAt = watched.LoadedAt
			if watched.Err != nil {
				all[i].Error = watched.Err.Error()
			}
		}
	}
	return all
}

// Ready returns why requests should not come yet: contracts are being read. After
// [Config.ReadyTimeout] it is nil in any case.
func (g *Gateway) Ready() error {
	waiting := g.current.Load().waiting
	if len(waiting) == 0 || time.Since(g.startedAt) >= g.config.ReadyTimeout {
		return nil
	}
	return fmt.Errorf("the contracts of %s are not read yet", strings.Join(waiting, ", "))
}

// WaitReady waits until [Gateway.Ready] is nil. It returns the reason if ctx ends before.
func (g *Gateway) WaitReady(ctx context.Context) error {
	for {
		err := g.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gateway: %w: %w", context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
