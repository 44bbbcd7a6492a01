package balancer_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/interop/grpc_testing" // contracts with unary methods and streams
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	unaryMethod  = "/grpc.testing.TestService/UnaryCall"
	streamMethod = "/grpc.testing.TestService/FullDuplexCall"
)

var success = grpcbalancer.DoneInfo{BytesSent: true, BytesReceived: true}

func ended(code codes.Code) grpcbalancer.DoneInfo {
	return grpcbalancer.DoneInfo{Err: status.Error(code, "ended"), BytesSent: true, BytesReceived: true}
}

// attemptOf is a pick with a record: of a first attempt, or the one after record.
func attemptOf(record *attempt.Record, method string) grpcbalancer.PickInfo {
	return grpcbalancer.PickInfo{FullMethodName: method, Ctx: attempt.NewContext(context.Background(), record)}
}

// on sends a hundred calls a second until one goes to the i-th endpoint, and answers how
// to end it. Those that went elsewhere succeed after a millisecond.
func on(t *testing.T, c *balancertest.Channel, i int) func(grpcbalancer.DoneInfo) {
	t.Helper()
	for range 3000 {
		result := pick(t, c)
		time.Sleep(time.Millisecond)
		if balancertest.IndexOf(result) == i {
			return result.Done
		}
		result.Done(success)
		time.Sleep(9 * time.Millisecond)
	}
	t.Fatalf("endpoint %d is never picked", i)
	return nil
}

// send makes calls, a hundred a second, until n have ended at the i-th endpoint with
// code, and answers how many did. Each takes a millisecond.
func send(t *testing.T, c *balancertest.Channel, calls, i, n int, code codes.Code) (there int) {
	t.Helper()
	for range calls {
		result := pick(t, c)
		time.Sleep(time.Millisecond)
		if balancertest.IndexOf(result) != i {
			result.Done(success)
		} else if result.Done(ended(code)); true {
			if there++; there == n {
				return n
			}
		}
		time.Sleep(9 * time.Millisecond)
	}
	return there
}

// fail makes calls for half a minute at most, until n have failed at the i-th endpoint
// with code.
func fail(t *testing.T, c *balancertest.Channel, i, n int, code codes.Code) {
	t.Helper()
	if got := send(t, c, 3000, i, n, code); got != n {
		t.Fatalf("%d calls went to endpoint %d, want %d", got, i, n)
	}
}

// shares counts where picks go, all successful after a millisecond.
func shares(t *testing.T, c *balancertest.Channel, picks int) map[int]int {
	t.Helper()
	counts := map[int]int{}
	for range picks {
		result := pick(t, c)
		counts[balancertest.IndexOf(result)]++
		time.Sleep(time.Millisecond)
		result.Done(success)
	}
	return counts
}

// stats are those of the i-th endpoint.
func stats(t *testing.T, c *balancertest.Channel, i int) balancer.EndpointStats {
	t.Helper()
	for _, e := range c.Table.Stats().Endpoints {
		if e.Address == balancertest.Address(i) {
			return e
		}
	}
	t.Fatalf("the table does not know endpoint %d", i)
	return balancer.EndpointStats{}
}

// settle lets the timers of the policies run that are due.
func settle() { time.Sleep(time.Microsecond) }
