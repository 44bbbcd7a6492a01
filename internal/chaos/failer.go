package chaos

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// failer simulates a bad deployment: an instance in this process that passes all checks
// and fails all calls with failure until it is fixed. Without the service it is the wrong
// program.
type failer struct {
	catalogv1.UnimplementedCatalogServiceServer
	failure error
	mended  atomic.Bool
	address string
	ended   chan struct{} // closed when it has
	err     error         // why it has ended by itself
	stop    func()
}

// GetSweet fails, or answers with nothing.
func (f *failer) GetSweet(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if !f.mended.Load() {
		return nil, f.failure
	}
	return &catalogv1.GetSweetResponse{}, nil
}

func (f *failer) mend() { f.mended.Store(true) }

// outOfOrder is a failure of the instance; refused asks for no calls for a time.
var outOfOrder = status.Error(codes.Internal, "out of order")

func refused(after time.Duration) error {
	s, err := status.New(codes.ResourceExhausted, "not now").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		return err
	}
	return s.Err()
}

// start runs f, which registers with the agent and serves the service if it is not nil.
func (f *failer) start(agent string, has catalogv1.CatalogServiceServer) error {
	address, err := freeport.Address()
	if err != nil {
		return err
	}
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{})
	if err != nil {
		return err
	}
	silent := slog.New(slog.DiscardHandler)
	directory, err := consul.New(consul.Config{Address: agent, Logger: silent})
	if err != nil {
		return err
	}
	server, err := meshlite.NewServer(service, meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(runtime), meshlite.WithMetricsAddress(""), meshlite.WithListenAddress(address),
		meshlite.WithDrain(0, time.Second))
	if err != nil {
		directory.Close()
		return err
	}
	f.address, f.ended = address, make(chan struct{})
	if has != nil {
		catalogv1.RegisterCatalogServiceServer(server, has)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(f.ended)
		f.err = server.Run(ctx)
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		<-f.ended
		directory.Close()
	})
	return nil
}
