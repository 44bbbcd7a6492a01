package routes_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// Groups with few instances.
var (
	single      = group{id: "v1", first: 0, listed: 1}
	pair        = group{id: "v1", first: 0, listed: 2}
	single2     = group{id: "v2", first: 100, listed: 1}
	singleOther = group{id: "other", first: 200, listed: 1}
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

// Case T8: A retry of a call may go to the other arm when its own has no untried instance.
func TestARetryCrossesArmsWhenItsOwnIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 100), arm("v2", 0), arm("other", 0.0001)), pair, v2, singleOther)
		f.ready(pair, singleOther)
		settle()
		for range 20 {
			i, record, err := f.call(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var path []int
			for path = append(path, i/100); record.HasUntried(); path = append(path, i/100) {
				if record = record.Next(); len(path) > 10 {
					t.Fatalf("attempts go on: %v", path)
				}
				if i, err = f.try(context.Background(), record); err != nil {
					t.Fatal(err)
				}
				if arm := map[int]string{0: "v1", 2: "other"}[i/100]; record.Route().Arm != arm {
					t.Errorf("the record names the arm %q of an attempt to %q", record.Route().Arm, arm)
				}
			}
			if !slices.Equal(path, []int{0, 0, 2}) {
				t.Errorf("attempts go to %v, want both of the arm and then the other arm; none to one of weight 0", path)
			}
		}
	})
}

// Policies of gRPC do not record attempts: a target is tried as often as it has endpoints.
//
// Case T8
func TestARetryCrossesArmsOfForeignPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy    string
		connected group // of v1
		want      []string
	}{
		{"round_robin", pair, []string{"v1", "v1", "v2"}},
		{"pick_first", single, []string{"v1", "v2"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t)
			f.config = `{"child": [{"` + tt.policy + `": {}}]}`
			f.set(chainOf(arm("v1", 100), arm("v2", 0.0001)), pair, single2)
			f.ready(tt.connected, single2)
			settle()
			for range 20 {
				_, record, err := f.call(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				var path []string
				for path = append(path, record.Route().Arm); record.HasUntried(); path = append(path, record.Route().Arm) {
					if record = record.Next(); len(path) > 10 {
						t.Fatalf("%s: attempts go on: %v", tt.policy, path)
					}
					if _, err = f.try(context.Background(), record); err != nil {
						t.Fatal(err)
					}
				}
				if !slices.Equal(path, tt.want) {
					t.Fatalf("%s: attempts go to %v, want %v", tt.policy, path, tt.want)
				}
			}
		})
	}
}

// A call whose target is lost between its choice and its pick goes to another target.
func TestACallSurvivesTheLossOfItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 50), arm("v2", 50)), single, single2)
		f.ready(single, single2)
		record := attempt.New()
		for record.Route() == nil || record.Route().Arm != "v1" {
			_, at, err := f.router.Choose(context.Background(), method)
			if err != nil {
				t.Fatal(err)
			}
			record.SetRoute(at)
		}
		f.down(0)
		settle()
		if i, err := f.try(context.Background(), record); err != nil || i != 100 || record.Route().Arm != "v2" {
			t.Errorf("the call goes to %d by arm %q: %v", i, record.Route().Arm, err)
		}
	})
}

// A server that closes its connections by age is waited for; one that is away for longer is not.
func TestAConnectionThatIsMadeAgainCostsNoFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 100, "other")), single, singleOther)
		f.ready(single)
		f.Connect(0, connectivity.Idle)
		settle()
		record, queued := f.queue()
		if !queued {
			t.Error("a call does not wait for the connection that is being made")
		}
		time.Sleep(900 * time.Millisecond)
		f.Connect(0, connectivity.Ready)
		if i, err := f.try(context.Background(), record); err != nil || i != 0 {
			t.Errorf("the call goes to %d: %v", i, err)
		}
		if opened, _ := f.Connections(); opened != 1 {
			t.Errorf("%d connections, want one", opened)
		}

		f.Connect(0, connectivity.Idle)
		settle()
		record, _ = f.queue()
		time.Sleep(1100 * time.Millisecond)
		settle()
		f.ready(singleOther)
		if i, err := f.try(context.Background(), record); err != nil || i != 200 || record.Route().Target != "other" {
			t.Errorf("the call that has waited goes to %d by target %q: %v", i, record.Route().Target, err)
		}
	})
}

// Ejected endpoints are not usable.
func TestEjectionsCountForFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, routes.WithFailoverThreshold(0.75))
		f.set(chainOf(arm("v1", 100, "other")), v1, other)
		f.ready(v1)
		for range 100 {
			result, err := f.Picker().Pick(pickInfo(context.Background()))
			if err != nil {
				t.Fatal(err)
			}
			if i := balancertest.IndexOf(result); i < 2 {
				result.Done(ended)
			} else {
				result.Done(success)
			}
		}
		settle()
		f.ready(other)
		f.wantShares(1000, 0.002, map[int]float64{0: 2.0 / 3, 200: 1.0 / 3})
	})
}
