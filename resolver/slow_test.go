package resolver_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// hurriedly makes one call with a deadline of 250 ms.
func hurriedly(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// R25: an earlier list serves at once after idleness, re-creation of the channel
// to the same target, or start with a snapshot, however slowly the agent answers; and
// the answer replaces it when it comes.
//
// Case R25: A known list serves at once, however slowly the agent answers.
func TestAKnownListServesWhileTheAgentIsSlow(t *testing.T) {
	const slow = 400 * time.Millisecond
	for name, back := range map[string]func(m *mesh, first *grpc.ClientConn, b *resolver.Builder, other func() *resolver.Builder) *grpc.ClientConn{
		"idleness": func(_ *mesh, first *grpc.ClientConn, _ *resolver.Builder, _ func() *resolver.Builder) *grpc.ClientConn {
			time.Sleep(40 * time.Minute) // gRPC's idle timeout is 30 minutes
			return first
		},
		"re-creation": func(m *mesh, first *grpc.ClientConn, b *resolver.Builder, _ func() *resolver.Builder) *grpc.ClientConn {
			first.Close()
			return m.through(b, "consul:///catalog")
		},
		"re-creation with other settings": func(m *mesh, first *grpc.ClientConn, b *resolver.Builder, _ func() *resolver.Builder) *grpc.ClientConn {
			first.Close()
			return m.through(b.With(resolver.WithGrace(time.Minute)), "consul:///catalog")
		},
		"a second channel with other settings": func(m *mesh, _ *grpc.ClientConn, b *resolver.Builder, _ func() *resolver.Builder) *grpc.ClientConn {
			return m.through(b.With(resolver.WithMaxRemoval(1)), "consul:///catalog")
		},
		"a snapshot": func(m *mesh, first *grpc.ClientConn, _ *resolver.Builder, other func() *resolver.Builder) *grpc.ClientConn {
			first.Close()
			return m.through(other(), "consul:///catalog")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				m.start(1)
				m.start(2)
				disk := &shelf{}
				process := func() *resolver.Builder { // one with a memory of its own, and the same disk
					return resolver.NewBuilder(m.directory(), resolver.WithSnapshots(disk), resolver.WithLogger(silent))
				}
				builder := process()
				first := m.through(builder, "consul:///catalog")
				mustCall(t, first, 10)
				m.agent.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
					select {
					case <-time.After(slow):
					case <-r.Context().Done():
					}
					return false
				})
				conn := back(m, first, builder, process)
				defer conn.Close()
				defer first.Close()
				for range 10 {
					if err := hurriedly(conn); err != nil {
						t.Fatalf("with an earlier list and an agent that answers in %v: %v", slow, err)
					}
				}
				m.start(3)
				time.Sleep(20 * time.Second)
				mustCall(t, conn, 30)
				if m.count(3)[2] == 0 {
					t.Error("the answer does not replace the earlier list")
				}
			})
		})
	}
}

// R25, with failover: what serves until the first answer is of a datacenter that did
// not fail when the channel was left, wherever it stands in the order.
//
// Case R25
func TestWhatServesMeanwhileIsOfADatacenterThatAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		leave func(near, far *scene)
		want  int
	}{
		"both answered":         {func(near, far *scene) { near.answer(1); far.answer(2) }, 1},
		"the first failed":      {func(near, far *scene) { near.answer(1); far.answer(2); near.directory.fail(errors.New("refused")) }, 2},
		"the first had nothing": {func(near, far *scene) { near.answer(); far.answer(2) }, 2},
		"both failed": {func(near, far *scene) {
			near.answer(1)
			far.answer(2)
			near.directory.fail(errors.New("refused"))
			far.directory.fail(errors.New("refused"))
		}, 1},
		"the second was never up": {func(near, far *scene) { near.answer(1); far.directory.fail(errors.New("refused")) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := byDatacenter{"near": {}, "far": {}}
				builder := resolver.NewBuilder(d, resolver.WithLogger(silent))
				const target = "consul:///catalog?dc=near&dc=far"
				first, second := &recorder{}, &recorder{}
				r := build(t, builder, target, first)
				test.leave(&scene{directory: d["near"], channel: first}, &scene{directory: d["far"], channel: first})
				time.Sleep(time.Minute)
				r.Close()
				r = build(t, builder, target, second)
				defer r.Close()
				back := &scene{directory: d["near"], channel: second}
				if got := back.endpoints(); !slices.Equal(got, []string{address(test.want)}) {
					t.Errorf("endpoints before any answer are %v, want %v", got, address(test.want))
				}
				if got := back.answer(3, 4); len(got) != 2 {
					t.Errorf("endpoints are %v, want the answer", got)
				}
			})
		})
	}
}

// R25: followers and statistics use the earlier list.
//
// Case R25
func TestFollowersGoOnWithWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := &scripted{}
		b := resolver.NewBuilder(directory, resolver.WithLogger(silent))
		r := build(t, b, "consul:///catalog", &recorder{})
		directory.report(catalog.Snapshot{Instances: instances(1, 2)})
		synctest.Wait()
		r.Close()
		var known []int
		stop := b.Follow(catalog.Query{Service: "catalog"}, func(list []catalog.Instance) { known = append(known, len(list)) })
		synctest.Wait()
		if s := b.Stats(); len(s) != 1 || s[0].Passing != 2 || s[0].Answers != 0 {
			t.Errorf("before the first answer the statistics are %+v, want 2 instances and no answer", s)
		}
		directory.report(catalog.Snapshot{Instances: instances(3)})
		synctest.Wait()
		stop()
		if !slices.Equal(slices.Compact(known), []int{2, 1}) {
			t.Errorf("the follower was passed lists of %v instances, want of 2, then of the answer's 1", known)
		}
	})
}
