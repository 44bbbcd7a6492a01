package routes_test

import (
	"context"
	"errors"

	grpcbalancer "google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

func pickInfo(ctx context.Context) grpcbalancer.PickInfo {
	return grpcbalancer.PickInfo{FullMethodName: method, Ctx: ctx}
}

func indexOf(result grpcbalancer.PickResult) int { return balancertest.IndexOf(result) }

// queue makes a call that waits for a connection.
func (f *fleet) queue() (*attempt.Record, bool) {
	_, record, err := f.call(context.Background())
	return record, errors.Is(err, grpcbalancer.ErrNoSubConnAvailable)
}
