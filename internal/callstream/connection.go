package callstream

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"

	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

// connections are the ready ones of a channel.
type connections struct {
	mu   sync.RWMutex
	open map[balancer.SubConn]*connection
}

func (c *connections) of(to balancer.SubConn) *connection {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.open[to]
}

// set opens or closes what belongs to a connection.
func (c *connections) set(to balancer.SubConn, ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.open[to]
	switch {
	case ready && before == nil:
		if c.open == nil {
			c.open = map[balancer.SubConn]*connection{}
		}
		c.open[to] = newConnection(to)
	case !ready && before != nil:
		delete(c.open, to)
		before.close()
	}
}

// connection has the streams to one server. It is safe for concurrent use.
type connection struct {
	ctx   context.Context // ends with the connection
	close context.CancelFunc
	to    balancer.SubConn
	ask   sync.Once
	of    *Client // nil until it is asked

	mu    sync.Mutex
	takes bool            // the server takes part
	not   map[string]bool // methods that it has not for streams
	free  []*stream       // the latest last
	open  int
	trim  *time.Timer // nil without free streams
}

func newConnection(to balancer.SubConn) *connection {
	c := &connection{to: to, not: map[string]bool{}}
	c.ctx, c.close = context.WithCancel(context.Background())
	context.AfterFunc(c.ctx, c.closeFree)
	return c
}

// ready asks the server once, beside the call, whether it takes part.
func (c *connection) ready(client *Client, cc *grpc.ClientConn) {
	c.ask.Do(func() {
		c.of = client
		go func() {
			ctx, cancel := context.WithTimeout(c.pinned(c.ctx), idle)
			defer cancel()
			if response, err := callv1.NewCallServiceClient(cc).Ready(ctx, &callv1.ReadyRequest{}); err == nil && response.GetServes() {
				c.mu.Lock()
				c.takes = true
				c.mu.Unlock()
			}
		}()
	})
}

// pinned is a context for what goes over this connection and no other.
func (c *connection) pinned(ctx context.Context) context.Context {
	return withPicked(ctx, &picked{client: c.of, result: balancer.PickResult{SubConn: c.to}, stream: true})
}

// take returns a free stream or a new one, and nil if there is none for method.
func (c *connection) take(method string) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.takes || c.not[method] || c.ctx.Err() != nil {
		return nil
	}
	for len(c.free) > 0 {
		last := len(c.free) - 1
		s := c.free[last]
		c.free[last] = nil
		c.free = c.free[:last]
		if time.Since(s.opens) < maxAge {
			return s
		}
		c.drop(s)
	}
	if c.open == maxStreams {
		return nil
	}
	c.open++
	return newStream(c)
}

// put takes back a stream after a call, to keep it or to end it.
func (c *connection) put(s *stream, keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !keep || c.ctx.Err() != nil {
		c.drop(s)
		return
	}
	s.since = time.Now()
	s.request.Reset() // it may be large, and wait for long
	s.response.Reset()
	c.free = append(c.free, s)
	if c.trim == nil {
		c.trim = time.AfterFunc(idle, c.trimFree)
	}
}

// drop ends a stream. The caller holds c.mu.
func (c *connection) drop(s *stream) {
	s.cancel()
	c.open--
}

// lacks notes that the server has not registered method for streams.
func (c *connection) lacks(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.not[method] = true; len(c.not) > maxUnknown {
		c.takes = false
	}
}

// refuse notes that the server does not take part.
func (c *connection) refuse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takes = false
}

// trimFree ends the streams that no call has used for a while.
func (c *connection) trimFree() {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := 0
	for old < len(c.free) && time.Since(c.free[old].since) >= idle {
		c.drop(c.free[old])
		old++
	}
	c.free = append(c.free[:0:0], c.free[old:]...)
	if c.trim = nil; len(c.free) > 0 {
		c.trim = time.AfterFunc(idle-time.Since(c.free[0].since), c.trimFree)
	}
}

// closeFree runs when the connection is lost, or drains. Calls that run go on.
func (c *connection) closeFree() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.free {
		c.drop(s)
	}
	c.free = nil
	if c.trim != nil {
		c.trim.Stop()
	}
}
