// Package hosts makes hosts of its own to break the network between them: each is a network
// namespace with one interface, and this process is the router that joins them. It drops,
// loses and delays packets by direction, which leaves connections as half open as a pulled
// cable does, and needs no netem in the kernel.
//
//	network, hosts, err := hosts.Open(2) // ErrUnsupported unless root on Linux
//	defer network.Close()
//	client, server := hosts[0], hosts[1]
//	err = server.Do(func() error { return command.Start() })
//	conn, err := client.Dialer(net.Dialer{})(ctx, "tcp", net.JoinHostPort(server.Address(), "8080"))
//	network.Break(server, client, hosts.Fault{Drop: true}) // one way
//
// The namespaces have no name and no path: they end with their last process and the network,
// whatever kills it. The machine's own network settings are not touched.
package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrUnsupported is why there can be no hosts: another system, no root, no TUN devices.
var ErrUnsupported = errors.New("hosts of its own need Linux, root and /dev/net/tun")

// Fault is what happens to packets of one direction. The zero value is a good network.
type Fault struct {
	Drop  bool          // all of them
	Loss  float64       // the part that is lost, 0 to 1
	Delay time.Duration // of each; they keep their order
}

const prefix = "10.66.0." // of the addresses, which are of their namespaces only

// maxQueue is how many packets wait on one link, of at most 1,500 bytes. What is beyond is
// lost, as at any router.
const maxQueue = 4096

// link is one direction between two hosts.
type link struct {
	fault atomic.Pointer[Fault]
	queue chan packet
}

type packet struct {
	due     time.Time
	content []byte
}

// accept takes a packet that was sent, or loses it. It keeps content.
func (l *link) accept(content []byte) {
	var f Fault
	if now := l.fault.Load(); now != nil {
		f = *now
	}
	if f.Drop || rand.Float64() < f.Loss {
		return
	}
	select {
	case l.queue <- packet{time.Now().Add(f.Delay), content}:
	default:
	}
}

// deliver hands packets over when they are due, until stop is closed.
func (l *link) deliver(to func([]byte), stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case p := <-l.queue:
			if wait := time.Until(p.due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-stop:
					return
				}
			}
			to(p.content)
		case <-stop:
			return
		}
	}
}

// route is the hosts of the source and the destination of an IPv4 packet: the last byte of
// each address.
func route(content []byte) (from, to byte, ok bool) {
	const header = 20
	if len(content) < header || content[0]>>4 != 4 {
		return 0, 0, false
	}
	return content[15], content[19], true
}

// Host is a network namespace. A nil Host is this machine, by its loopback address. It is safe
// for concurrent use.
type Host struct {
	number    byte
	namespace *os.File
	device    *os.File // of its only interface but lo
}

// Address is the host's IP address.
func (h *Host) Address() string {
	if h == nil {
		return "127.0.0.1"
	}
	return fmt.Sprint(prefix, h.number)
}

// Do runs f on the host: sockets that it makes and processes that it starts, not in other
// goroutines, belong to it.
func (h *Host) Do(f func() error) error {
	if h == nil {
		return f()
	}
	return h.do(f)
}

// Dialer returns a function that connects from the host to literal addresses as
// [net.Dialer.DialContext] does.
func (h *Host) Dialer(d net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = h.Do(func() error {
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

func (h *Host) receive(content []byte) {
	_, _ = h.device.Write(content) // lost where the host cannot take it, as on any wire
}

func (h *Host) close() {
	for _, file := range []*os.File{h.device, h.namespace} {
		if file != nil {
			file.Close()
		}
	}
}

// Network joins hosts. It is safe for concurrent use.
type Network struct {
	hosts   []*Host
	links   map[[2]byte]*link // by the numbers of from and to
	stop    chan struct{}
	close   func()
	running sync.WaitGroup
}

// Open makes n hosts that reach each other. The error is [ErrUnsupported] where it cannot.
func Open(n int) (*Network, []*Host, error) {
	w := &Network{links: map[[2]byte]*link{}, stop: make(chan struct{})}
	w.close = sync.OnceFunc(func() {
		close(w.stop)
		for _, h := range w.hosts {
			h.close()
		}
	})
	for number := range byte(n) {
		h, err := newHost(number + 1)
		if err != nil {
			w.Close()
			return nil, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		w.hosts = append(w.hosts, h)
	}
	w.pairs(func(from, to *Host) {
		l := &link{queue: make(chan packet, maxQueue)}
		w.links[[2]byte{from.number, to.number}] = l
		w.running.Go(func() { l.deliver(to.receive, w.stop) })
	})
	for _, h := range w.hosts {
		w.running.Go(func() { w.forward(h) })
	}
	return w, w.hosts, nil
}

func (w *Network) pairs(do func(from, to *Host)) {
	for _, from := range w.hosts {
		for _, to := range w.hosts {
			if from != to {
				do(from, to)
			}
		}
	}
}

// Break makes what from sends to to suffer f, from the next packet on.
func (w *Network) Break(from, to *Host, f Fault) {
	w.links[[2]byte{from.number, to.number}].fault.Store(&f)
}

// BreakHost makes all packets from and to h suffer f.
func (w *Network) BreakHost(h *Host, f Fault) {
	w.pairs(func(from, to *Host) {
		if from == h || to == h {
			w.Break(from, to, f)
		}
	})
}

// BreakAll makes all packets between hosts suffer f. The zero Fault heals the network.
func (w *Network) BreakAll(f Fault) {
	w.pairs(func(from, to *Host) { w.Break(from, to, f) })
}

// forward takes what a host sends until its device is closed.
func (w *Network) forward(h *Host) {
	buffer := make([]byte, 1<<16)
	for {
		size, err := h.device.Read(buffer)
		if err != nil {
			return
		}
		from, to, ok := route(buffer[:size])
		if l := w.links[[2]byte{from, to}]; ok && l != nil && from == h.number {
			l.accept(bytes.Clone(buffer[:size]))
		}
	}
}

// Close ends the router and its part of the hosts, and waits. Processes that run on a host keep
// it, and reach nobody.
func (w *Network) Close() {
	w.close()
	w.running.Wait()
}
