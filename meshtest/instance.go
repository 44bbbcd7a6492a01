package meshtest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
)

const defaultStopTimeout = 10 * time.Second

// Instance is a server that runs, with faults to order. A fault stands until [Instance.Heal];
// those that can be ordered together, Slow and Fail, add up.
type Instance struct {
	// Server is the server itself, such as for its SetServing.
	Server *meshlite.Server
	// Runtime is that of this instance: its metrics, its cache.
	Runtime *meshlite.Runtime
	// Address is where it takes calls: that in the directory, and of peers and metrics.
	Address string

	mesh    *Mesh
	host    *host
	service string
	calls   atomic.Int64
	stop    context.CancelFunc
	ended   chan error

	mu      sync.Mutex
	delay   time.Duration
	code    codes.Code
	stopped string // why it is gone, "" while it runs
}

// Calls returns how many calls have reached handlers, those that a fault fails included;
// what a cache answers or a limit refuses does not. Health checks are not counted.
func (i *Instance) Calls() int { return int(i.calls.Load()) }

// Slow makes each handler begin d later, or end with its context.
func (i *Instance) Slow(d time.Duration) {
	i.mesh.t.Helper()
	if d <= 0 {
		i.mesh.t.Fatalf("meshtest: Slow(%v): write a duration above 0, or call Heal to end it", d)
	}
	i.order("Slow", func() { i.delay = d })
}

// Fail makes each call end with code, instead of its handler: inside all interceptors, so
// that metrics, logs and limits see a handler that fails.
func (i *Instance) Fail(code codes.Code) {
	i.mesh.t.Helper()
	if code == codes.OK {
		i.mesh.t.Fatal("meshtest: Fail(OK): write the code of a failure, or call Heal to end it")
	}
	i.order("Fail", func() { i.code = code })
}

// Hang stalls the process as SIGSTOP would: connections stay, nothing is read or sent, and
// the agent's check times out. Handlers that run go on, unseen.
func (i *Instance) Hang() {
	i.mesh.t.Helper()
	i.order("Hang", func() { i.host.stall(true) })
}

// Heal ends Slow, Fail and Hang.
func (i *Instance) Heal() {
	i.mesh.t.Helper()
	i.order("Heal", func() {
		i.delay, i.code = 0, codes.OK
		i.host.stall(false)
	})
}

// order changes a process that runs.
func (i *Instance) order(fault string, change func()) {
	i.mesh.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped != "" {
		i.mesh.t.Fatalf("meshtest: %s: the instance %s of %s %s: start another one by Serve", fault, i.Address, i.service, i.stopped)
	}
	change()
}

// Kill ends the process as SIGKILL would: connections break, new ones are refused, and the
// directory has it until the agent's check fails, within 5 s, and as critical for a minute
// after that.
func (i *Instance) Kill() {
	i.mesh.t.Helper()
	i.order("Kill", func() {
		i.stopped = "was killed"
		i.host.kill()
		i.host.stall(false)
	})
}

// Leave stops the server in order, as SIGTERM would, and returns when it has ended: it
// leaves the directory, drains as WithDrain says, and lets running calls end.
func (i *Instance) Leave() {
	i.mesh.t.Helper()
	i.order("Leave", func() {
		if i.host.stalled() {
			i.mesh.t.Fatal("meshtest: Leave: a stalled process sees no signal: call Heal before, or Kill")
		}
		i.stopped = "has left"
	})
	i.stop()
	err := <-i.ended
	i.ended <- err
	if err != nil {
		i.mesh.t.Errorf("meshtest: Leave: %v", err)
	}
}

// close ends what runs, at the end of the test, without waiting for calls.
func (i *Instance) close() {
	i.host.stall(false)
	i.mesh.Agent.Heal() // so that nothing waits for it
	i.mesh.Agent.SetReachable(true)
	i.Server.GRPC().Stop()
	i.stop()
	<-i.ended
}

// before is what a fault does before a handler.
func (i *Instance) before(ctx context.Context) error {
	i.calls.Add(1)
	i.mu.Lock()
	delay, code := i.delay, i.code
	i.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	if code != codes.OK {
		return status.Errorf(code, "meshtest: %s fails as ordered", i.Address)
	}
	return nil
}

// faulty registers services whose handlers have the faults of an instance.
type faulty struct {
	*meshlite.Server
	instance *Instance
}

// GetServiceInfo is for reflection.
func (f faulty) GetServiceInfo() map[string]grpc.ServiceInfo { return f.GRPC().GetServiceInfo() }

// RegisterService registers impl.
func (f faulty) RegisterService(desc *grpc.ServiceDesc, impl any) {
	own := *desc
	own.Methods = nil
	for _, method := range desc.Methods {
		handler := method.Handler
		method.Handler = func(srv any, ctx context.Context, decode func(any) error, outer grpc.UnaryServerInterceptor) (any, error) {
			return handler(srv, ctx, decode, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				return outer(ctx, req, info, func(ctx context.Context, req any) (any, error) {
					if err := f.instance.before(ctx); err != nil {
						return nil, err
					}
					return next(ctx, req)
				})
			})
		}
		own.Methods = append(own.Methods, method)
	}
	own.Streams = nil
	for _, stream := range desc.Streams {
		handler := stream.Handler
		stream.Handler = func(srv any, s grpc.ServerStream) error {
			if err := f.instance.before(s.Context()); err != nil {
				return err
			}
			return handler(srv, s)
		}
		own.Streams = append(own.Streams, stream)
	}
	f.Server.RegisterService(&own, impl)
}
