package meshlite

import (
	"context"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/callstream"
)

// callShards is how many locks the record of running calls has.
const callShards = 16

// calls records what runs in a server: so that a stop can count it, and name what does
// not end. It is as large as the calls that run, and allocates nothing for a call.
type calls struct {
	shards [callShards]struct {
		mu    sync.Mutex
		first *runningCall
		n     int
	}
	free sync.Pool // of *runningCall
}

// runningCall is one of a shard's list.
type runningCall struct {
	method         string
	start          time.Time
	shard          uint32
	previous, next *runningCall
}

func (c *calls) begin(method string) *runningCall {
	running, _ := c.free.Get().(*runningCall)
	if running == nil {
		running = &runningCall{}
	}
	running.method, running.start, running.shard = method, time.Now(), rand.Uint32N(callShards)
	shard := &c.shards[running.shard]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if running.next = shard.first; running.next != nil {
		running.next.previous = running
	}
	shard.first = running
	shard.n++
	return running
}

func (c *calls) end(running *runningCall) {
	shard := &c.shards[running.shard]
	shard.mu.Lock()
	if running.next != nil {
		running.next.previous = running.previous
	}
	if running.previous != nil {
		running.previous.next = running.next
	} else {
		shard.first = running.next
	}
	shard.n--
	shard.mu.Unlock()
	*running = runningCall{}
	c.free.Put(running)
}

// count is how many run now.
func (c *calls) count() int {
	n := 0
	for i := range c.shards {
		shard := &c.shards[i]
		shard.mu.Lock()
		n += shard.n
		shard.mu.Unlock()
	}
	return n
}

// all are copies of those that run now.
func (c *calls) all() iter.Seq[runningCall] {
	return func(yield func(runningCall) bool) {
		for i := range c.shards {
			var some []runningCall
			shard := &c.shards[i]
			shard.mu.Lock()
			for running := shard.first; running != nil; running = running.next {
				some = append(some, *running)
			}
			shard.mu.Unlock()
			for _, running := range some {
				if !yield(running) {
					return
				}
			}
		}
	}
}

// options record calls around the user's server options and the chain. Without the
// former, the chain's interceptors are wrapped: gRPC allocates for each one that it chains.
func (c *calls) options(users []grpc.ServerOption, unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) []grpc.ServerOption {
	if len(users) == 0 {
		return []grpc.ServerOption{grpc.UnaryInterceptor(c.unary(unary)), grpc.StreamInterceptor(c.stream(stream))}
	}
	pass := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(c.unary(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, req)
		})),
		grpc.ChainStreamInterceptor(c.stream(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, stream)
		})),
	}
	return append(append(pass, users...), grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream))
}

func (c *calls) unary(next grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		defer c.end(c.begin(info.FullMethod))
		return next(ctx, req, info, handler)
	}
}

func (c *calls) stream(next grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !callstream.Own(info.FullMethod) { // the calls on it are recorded
			defer c.end(c.begin(info.FullMethod))
		}
		return next(srv, stream, info, handler)
	}
}
