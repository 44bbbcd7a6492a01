package resolver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// through makes a channel over b. Its owner closes it.
func (m *mesh) through(b *resolver.Builder, target string) *grpc.ClientConn {
	m.t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithResolvers(b), grpc.WithNoProxy(), grpc.WithDefaultServiceConfig(resolver.DefaultServiceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(m.dial))
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

func TestPicksShowTheTargetsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		m.start(2)
		b := resolver.NewBuilder(m.directory(), resolver.WithLogger(silent))
		one, two := m.through(b, "consul:///catalog"), m.through(b, "consul:///catalog")
		defer two.Close()
		if got := b.Picks(); len(got) != 0 {
			t.Errorf("before the first call it reports %+v", got)
		}
		mustCall(t, one, 1)
		synctest.Wait() // for both connections
		mustCall(t, one, 9)
		mustCall(t, two, 10)
		synctest.Wait() // for both connections of the second channel
		got := b.Picks()
		if len(got) != 1 || got[0].Service != "catalog" || got[0].Channels != 2 || got[0].Directory != "consul at 127.0.0.1:8500" || len(got[0].Endpoints) != 2 {
			t.Fatalf("it reports %+v", got)
		}
		var picks uint64
		var share, part float64
		for i, e := range got[0].Endpoints {
			picks, share, part = picks+e.Picks, share+e.Share, part+e.Part
			if e.ID != fmt.Sprintf("catalog-%d", i+1) || e.State != balancer.InRotation || e.InFlight != 0 || e.Weight != 1 || e.Warm != 1 {
				t.Errorf("endpoint %d is %+v", i, e)
			}
		}
		if picks != 20 || share != 1 || part != 1 {
			t.Errorf("%d picks, %v of all, %v of all weight, want 20, 1 and 1", picks, share, part)
		}

		// One that is closed is gone, and the other keeps what both have measured.
		one.Close()
		synctest.Wait()
		if got = b.Picks(); len(got) != 1 || got[0].Channels != 1 || got[0].Endpoints[0].Picks+got[0].Endpoints[1].Picks != 20 {
			t.Errorf("with one channel it reports %+v", got)
		}
		two.Close()
		synctest.Wait()
		if got = b.Picks(); len(got) != 0 {
			t.Errorf("without a channel it reports %+v", got)
		}
	})
}

func TestPicksAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		b := resolver.NewBuilder(m.directory(), resolver.WithLogger(silent))
		for _, target := range []string{
			"consul:///prices", "consul:///catalog?tag=b", "consul:///catalog?dc=dc1&dc=dc2", "consul:///catalog",
			"consul:///catalog?tag=a&consistency=consistent", "consul:///catalog?policy=round_robin",
		} {
			conn := m.through(b, target)
			defer conn.Close()
			conn.Connect()
		}
		synctest.Wait()
		var got []string
		for _, p := range b.Picks() {
			var keys []string
			for _, q := range p.Queries {
				keys = append(keys, q.Key())
			}
			got = append(got, strings.Join(keys, " "))
		}
		want := []string{
			"consistency=consistent&service=catalog&tag=a", "dc=dc1&service=catalog dc=dc2&service=catalog",
			"service=catalog", "service=catalog&tag=b", "service=prices",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("it reports %q, want %q", got, want)
		}
	})
}

// The JSON of an admin page holds all of it.
func TestPicksAreReadAsTheyAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		b := resolver.NewBuilder(m.directory(), resolver.WithLogger(silent))
		ours, theirs := m.through(b, "consul:///catalog?consistency=cached"), m.through(b, "consul:///catalog?policy=grpc:round_robin")
		defer ours.Close()
		defer theirs.Close()
		mustCall(t, ours, 3)
		mustCall(t, theirs, 3)
		picks := b.Picks()
		text, err := json.Marshal(picks)
		if err != nil {
			t.Fatal(err)
		}
		var read []resolver.Picks
		if err := json.Unmarshal(text, &read); err != nil || len(read) != 2 {
			t.Fatalf("%s is read as %+v, %v", text, read, err)
		}
		again, err := json.Marshal(read)
		if err != nil || string(again) != string(text) {
			t.Errorf("%s becomes %s, %v", text, again, err)
		}
		// A policy of gRPC's own reports no endpoints, which is not null.
		if read[1].Endpoints == nil || len(read[1].Endpoints) != 0 || read[0].Endpoints[0].Picks != 3 {
			t.Errorf("%s: the policy of gRPC's reports endpoints, or ours does not", text)
		}
	})
}

func TestPicksShowEndpointsThatAreNotReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.register(1, consultest.Service{}) // and nobody listens
		b := resolver.NewBuilder(m.directory(), resolver.WithLogger(silent))
		conn := m.through(b, "consul:///catalog")
		defer conn.Close()
		conn.Connect()
		synctest.Wait()
		got := b.Picks()
		if len(got) != 1 || len(got[0].Endpoints) != 1 || got[0].Endpoints[0].State != balancer.Unconnected {
			t.Errorf("it reports %+v", got)
		}
	})
}
