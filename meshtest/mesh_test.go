package meshtest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/meshtest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func get(t *testing.T, catalog catalogv1.CatalogServiceClient, id string) error {
	t.Helper()
	response, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: id}, grpc.WaitForReady(true))
	if err == nil && response.GetSweet().GetId() != id {
		t.Errorf("asked for %s, and got %v", id, response)
	}
	return err
}

func client(mesh *meshtest.Mesh, opts ...meshlite.ClientOption) catalogv1.CatalogServiceClient {
	return catalogv1.NewCatalogServiceClient(mesh.Client("catalog", opts...))
}

// Without a bubble, too, a mesh of one server and one client is a matter of milliseconds;
// that is logged, not judged, as time is not the test's.
//
// Case T kit: A user's test has servers and clients of a mesh in one process, in less than
// five lines, in real and in virtual time, with the program's own options.
func TestACallThroughTheMesh(t *testing.T) {
	begun := time.Now()
	mesh := meshtest.New(t)
	instance := mesh.Serve("catalog", register, meshlite.WithLocality("eu", "eu-1"), meshlite.WithPlaintext())
	if err := get(t, client(mesh, meshlite.WithPlaintext(), meshlite.WithBalancer("peak_ewma")), "fudge"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the first call had its answer after %v", time.Since(begun))
	if n := instance.Calls(); n != 1 {
		t.Errorf("%d calls reached the handler, want 1", n)
	}
}

// Nothing waits between New and the first answer, by virtual time, which only waits let pass: in
// real time there is left what the processor needs.
//
// Case T kit
func TestTheFirstCallWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		mesh := meshtest.New(t)
		mesh.Serve("catalog", register)
		if err := get(t, client(mesh), "fudge"); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begun); waited > 50*time.Millisecond {
			t.Errorf("the first call has its answer after %v of waiting, want at most 50 ms", waited)
		}
	})
}

// Case T kit
func TestFaultsOfAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		one, two := mesh.Serve("catalog", register), mesh.Serve("catalog", register)
		catalog := client(mesh, uncached(), meshlite.WithBalancer("round_robin"))
		calls := func(n int) {
			t.Helper()
			for range n {
				if err := get(t, catalog, "fudge"); err != nil {
					t.Errorf("a call fails: %v", err)
				}
			}
		}
		calls(1)
		synctest.Wait() // until both are connected
		calls(4)
		if one.Calls() == 0 || two.Calls() == 0 {
			t.Fatalf("%d and %d calls, want both to be called", one.Calls(), two.Calls())
		}
		one.Fail(codes.Unavailable)
		before := two.Calls()
		calls(4)
		if n := two.Calls() - before; n != 4 {
			t.Errorf("the other instance answered %d of 4 calls", n)
		}
		one.Heal()
		time.Sleep(time.Minute) // beyond its ejection

		one.Kill()
		calls(4)
		time.Sleep(10 * time.Second) // the agent has seen it
		before = two.Calls()
		calls(4)
		if n := two.Calls() - before; n != 4 {
			t.Errorf("the other instance answered %d of 4 calls", n)
		}
		three := mesh.Serve("catalog", register)
		synctest.Wait()
		two.Leave()
		synctest.Wait()
		calls(4)
		if n := three.Calls(); n != 4 {
			t.Errorf("the instance that came answered %d of 4 calls", n)
		}
	})
}

// A stalled instance keeps its connections and answers nothing; the check of the agent
// times out, and it is called again when it goes on.
//
// Case T kit
func TestAStalledInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		instance := mesh.Serve("catalog", register)
		catalog := client(mesh, once())
		if err := get(t, catalog, "fudge"); err != nil {
			t.Fatal(err)
		}
		instance.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := catalog.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "fudge"}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a stalled instance answers %v", err)
		}
		if n := instance.Calls(); n != 1 {
			t.Errorf("%d calls reached the handler of a stalled instance, want the 1 before", n)
		}
		instance.Heal()
		if err := get(t, catalog, "fudge"); err != nil {
			t.Errorf("an instance that goes on: %v", err)
		}
	})
}

// The list stands while the agent is away or answers errors.
//
// Case T kit
func TestFaultsOfTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		mesh.Serve("catalog", register)
		catalog := client(mesh, once())
		if err := get(t, catalog, "fudge"); err != nil {
			t.Fatal(err)
		}
		mesh.Agent.SetReachable(false)
		time.Sleep(10 * time.Minute)
		if err := get(t, catalog, "fudge"); err != nil {
			t.Errorf("with the agent away for ten minutes: %v", err)
		}
		mesh.Agent.SetReachable(true)
		mesh.Agent.Inject(consultest.Empty())
		time.Sleep(time.Second)
		if err := get(t, catalog, "fudge"); err != nil {
			t.Errorf("with an agent that has lost all: %v", err)
		}
	})
}

// A cached answer expires, and a deadline passes, in no time.
//
// Case T kit
func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		instance := mesh.Serve("catalog", register)
		catalog := client(mesh) // its contract has a ttl
		for range 3 {
			if err := get(t, catalog, "fudge"); err != nil {
				t.Fatal(err)
			}
		}
		if n := instance.Calls(); n != 1 {
			t.Errorf("%d of 3 calls reached the handler, want 1", n)
		}
		time.Sleep(time.Hour)
		if err := get(t, catalog, "fudge"); err != nil {
			t.Fatal(err)
		}
		if n := instance.Calls(); n != 2 {
			t.Errorf("%d calls reached the handler after an hour, want 2", n)
		}
		instance.Slow(time.Hour)
		begun := time.Now()
		if err := get(t, catalog, "toffee"); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a slow instance answers %v, want the timeout of the contract", err)
		}
		if took := time.Since(begun); took == 0 || took > time.Minute {
			t.Errorf("a call of a method with a timeout took %v", took)
		}
	})
}

// refused is a test that keeps why it failed.
type refused struct {
	testing.TB
	why string
}

func (r *refused) Helper()        {}
func (r *refused) Fatal(a ...any) { r.why = fmt.Sprint(a...); runtime.Goexit() }
func (r *refused) Fatalf(f string, a ...any) {
	r.why = fmt.Sprintf(f, a...)
	runtime.Goexit()
}

// What makes no sense fails the test, and says what to write instead.
//
// Case T kit
func TestWhatMakesNoSenseFailsTheTest(t *testing.T) {
	for name, test := range map[string]struct {
		does func(*meshtest.Mesh)
		want string
	}{
		"slow by nothing":      {func(m *meshtest.Mesh) { m.Serve("catalog", register).Slow(0) }, "write a duration above 0"},
		"fail with OK":         {func(m *meshtest.Mesh) { m.Serve("catalog", register).Fail(codes.OK) }, "write the code of a failure"},
		"heal what has left":   {func(m *meshtest.Mesh) { i := m.Serve("catalog", register); i.Leave(); i.Heal() }, "has left: start another one"},
		"slow what was killed": {func(m *meshtest.Mesh) { i := m.Serve("catalog", register); i.Kill(); i.Slow(time.Second) }, "was killed: start another one"},
		"stop what stalls":     {func(m *meshtest.Mesh) { i := m.Serve("catalog", register); i.Hang(); i.Leave() }, "call Heal before, or Kill"},
		"a wrong name":         {func(m *meshtest.Mesh) { m.Serve("no name", register) }, `service name "no name"`},
		"a wrong option":       {func(m *meshtest.Mesh) { m.Client("catalog", meshlite.WithBalancer("best")) }, `WithBalancer`},
		"a wrong scheme":       {func(m *meshtest.Mesh) { m.Client("konsul://catalog") }, `target "konsul://catalog"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := &refused{TB: t}
			done := make(chan struct{})
			go func() { // since it ends its goroutine, as a test's Fatal does
				defer close(done)
				test.does(meshtest.New(r))
			}()
			<-done
			if !strings.Contains(r.why, test.want) {
				t.Errorf("%q, want %q", r.why, test.want)
			}
		})
	}
}

// TLS is the program's own option, as everything is; whoever has another authority is not
// believed.
//
// Case T kit
func TestTLSThroughTheMesh(t *testing.T) {
	mesh := meshtest.New(t)
	authority := certtest.New(t)
	mesh.Serve("catalog", register, meshlite.WithTLS(&tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "catalog")}}))
	if err := get(t, client(mesh, meshlite.WithTLS(&tls.Config{RootCAs: authority.Roots})), "fudge"); err != nil {
		t.Errorf("over TLS: %v", err)
	}
	for name, stranger := range map[string]catalogv1.CatalogServiceClient{
		"another authority": client(mesh, meshlite.WithTLS(&tls.Config{RootCAs: certtest.New(t).Roots})),
		"plaintext":         client(mesh),
	} {
		if _, err := stranger.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "toffee"}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want UNAVAILABLE", name, err)
		}
	}
}

// A kill and a stall show in the directory, as the agent's check sees them.
//
// Case T kit
func TestTheAgentSeesWhoIsIll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		instance := mesh.Serve("catalog", register)
		catalog := client(mesh, once())
		passing := func() (n float64) {
			t.Helper()
			synctest.Wait()
			families, err := mesh.Runtime.Registry().Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				for _, metric := range family.GetMetric() {
					if family.GetName() == "meshlite_discovery_instances" && strings.Contains(metric.String(), `"passing"`) {
						n += metric.GetGauge().GetValue()
					}
				}
			}
			return n
		}
		if err := get(t, catalog, "fudge"); err != nil {
			t.Fatal(err)
		}
		instance.Server.SetServing("", false)
		for _, want := range []float64{0, 1, 0, 1, 0} {
			time.Sleep(30 * time.Second)
			if n := passing(); n != want {
				t.Errorf("%v instances pass, want %v", n, want)
			}
			switch want {
			case 0:
				instance.Server.SetServing("", true)
				instance.Heal()
			case 1:
				instance.Hang()
			}
		}
	})
}
