// Package faultproxy is a TCP proxy on loopback that simulates network faults between a client
// and an agent or a server.
//
//	proxy, err := faultproxy.Listen(agent.Address)
//	defer proxy.Close()
//	proxy.Blackhole() // clients of proxy.Address() receive nothing from now on
//	proxy.Heal()
//
// A fault lasts until Heal or the next one. All methods are safe for concurrent use.
package faultproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// Proxy forwards connections to its target.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	work     sync.WaitGroup

	mu    sync.Mutex
	now   fault
	links map[*link]struct{} // open ones
}

// fault is what is wrong with the network.
type fault struct {
	refuses, swallows bool
	latency           time.Duration // of each piece of data
	bytesPerSecond    int           // 0 is no limit
}

// Listen opens a proxy to target, "host:port", on a free port.
func Listen(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: listener, links: map[*link]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.work.Go(p.accept)
	return p, nil
}

// Address returns the address to which clients connect.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Reset resets all open connections, and no new ones.
func (p *Proxy) Reset() { p.each((*link).reset) }

// Refuse resets all connections and every new one.
func (p *Proxy) Refuse() {
	p.set(fault{refuses: true})
	p.Reset()
}

// Blackhole drops what either side sends; connections stay open. Those that were open
// meanwhile stay dead, as after a firewall has lost them: their clients receive nothing,
// not even that the server has closed.
func (p *Proxy) Blackhole() {
	p.set(fault{swallows: true})
	p.each((*link).kill)
}

// Slow delays each piece of data by latency and passes at most bytesPerSecond of
// each connection and direction, 0 for no limit.
func (p *Proxy) Slow(latency time.Duration, bytesPerSecond int) {
	p.set(fault{latency: latency, bytesPerSecond: bytesPerSecond})
}

// Heal ends the fault.
func (p *Proxy) Heal() { p.set(fault{}) }

// Close ends all connections and waits.
func (p *Proxy) Close() {
	p.cancel()
	p.listener.Close()
	p.Reset()
	p.work.Wait()
}

func (p *Proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = f
}

func (p *Proxy) fault() fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *Proxy) each(do func(*link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		do(l)
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		l := &link{client: client.(*net.TCPConn), ended: make(chan struct{})}
		if !p.add(l) {
			l.reset()
			continue
		}
		p.work.Go(func() { p.serve(l) })
	}
}

// add registers a link, unless the proxy refuses it or is closed. It does so under the lock of
// the faults, so that none misses the link.
func (p *Proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.refuses || p.ctx.Err() != nil {
		return false
	}
	if p.now.swallows {
		l.kill()
	}
	p.links[l] = struct{}{}
	return true
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// serve connects a link to the target. If that fails it resets the link, which is as close to
// a refused connection as possible after accepting it.
func (p *Proxy) serve(l *link) {
	defer p.remove(l)
	defer l.reset()
	var dialer net.Dialer
	server, err := dialer.DialContext(p.ctx, "tcp", p.target)
	if err != nil || !l.join(server.(*net.TCPConn)) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { l.pass(p, server, l.client) })
	l.pass(p, l.client, server)
	l.reset()
	back.Wait()
}
