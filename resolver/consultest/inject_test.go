package consultest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// inBubble runs test in virtual time, with four instances and a query that waits for a
// change of them.
func inBubble(t *testing.T, test func(t *testing.T, s *consultest.Server, client *api.Client, index uint64, waiting <-chan asked)) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		four(t, s)
		_, meta := health(t, client, "web", false)
		waiting := ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
		synctest.Wait()
		time.Sleep(time.Second)
		test(t, s, client, meta.LastIndex, waiting)
	})
}

// Who waits in a blocking query meets a fault when it comes, not minutes later.
func TestAWaitingQueryMeetsTheFaultAtOnce(t *testing.T) {
	tests := map[string]struct {
		fault consultest.Fault
		took  time.Duration
		want  func(got asked, index uint64) bool
	}{
		"an answer":    {consultest.Empty(), 0, func(got asked, index uint64) bool { return got.shown == "" && got.index > index }},
		"lower index":  {consultest.IndexBackwards(), 0, func(got asked, index uint64) bool { return got.shown == all && got.index < index && got.index > 0 }},
		"consul#20790": {consultest.Empty().And(consultest.IndexBackwards()), 0, func(got asked, index uint64) bool { return got.shown == "" && got.index < index && got.index > 0 }},
		"same index":   {consultest.Empty().And(consultest.IndexKept()), 0, func(got asked, index uint64) bool { return got.shown == "" && got.index == index }},
		"no index":     {consultest.IndexZero(), 0, func(got asked, _ uint64) bool { return got.shown == all && got.index == 0 }},
		"an error":     {consultest.Forbidden(), 0, func(got asked, _ uint64) bool { return strings.Contains(got.err.Error(), "403") }},
		"a break":      {consultest.Reset(), 0, func(got asked, _ uint64) bool { return errors.Is(got.err, syscall.ECONNRESET) }},
		"a cut":        {consultest.Truncate(), 0, func(got asked, _ uint64) bool { return errors.Is(got.err, io.ErrUnexpectedEOF) }},
		"a delay":      {consultest.Delay(time.Minute), time.Minute, func(got asked, index uint64) bool { return got.shown == all && got.index == index }},
		"a slow body":  {consultest.SlowBody(time.Minute), time.Minute, func(got asked, index uint64) bool { return got.shown == all && got.index == index }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *consultest.Server, _ *api.Client, index uint64, waiting <-chan asked) {
				s.Inject(test.fault)
				if got := <-waiting; got.took-time.Second != test.took || got.err == nil == (name == "an error" || name == "a break" || name == "a cut") || !test.want(got, index) {
					t.Errorf("got %+v, the index was %d", got, index)
				}
			})
		})
	}
}

func TestAFaultElsewhereDisturbsNoQuery(t *testing.T) {
	inBubble(t, func(t *testing.T, s *consultest.Server, _ *api.Client, _ uint64, waiting <-chan asked) {
		lift := s.Inject(consultest.Empty().Service("db"), consultest.Reset().On(consultest.KeyValues))
		lift()
		s.Script(consultest.NoLeader().Service("db"))
		if !pending(waiting) {
			t.Errorf("got %+v", <-waiting)
		}
		s.Heal()
		if got := <-waiting; got.took < 5*time.Minute || got.took > 5*time.Minute*17/16 { // the wait did not start again
			t.Errorf("got %+v", got)
		}
	})
}

// A client that was between two queries when a fault came, or went, is notified of it too.
func TestNobodyMissesAChangeOfAnswers(t *testing.T) {
	for name, fault := range map[string]consultest.Fault{
		"empty": consultest.Empty(), "half": consultest.Without(0.5), "lower index": consultest.IndexBackwards(),
		"both": consultest.Empty().And(consultest.IndexBackwards()),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, client := newAgent(t)
				four(t, s)
				_, meta := health(t, client, "web", false)
				lift := s.Inject(fault)
				got := <-ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
				if got.took != 0 || got.index == meta.LastIndex {
					t.Fatalf("injected, got %+v", got)
				}
				again := ask(client, "web", &api.QueryOptions{WaitIndex: got.index})
				if !pending(again) {
					t.Fatalf("the fault does not let queries block: %+v", <-again)
				}
				lift()
				if got := <-again; got.shown != all || got.took != 0 {
					t.Errorf("lifted, the waiting query got %+v", got)
				}
				if got := <-ask(client, "web", &api.QueryOptions{WaitIndex: got.index}); got.shown != all || got.took != 0 {
					t.Errorf("lifted, a late query got %+v", got)
				}
			})
		})
	}
}

func TestIndexZeroNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		s.Inject(consultest.IndexZero())
		for _, index := range []uint64{0, 1, 1000} {
			if got := <-ask(client, "web", &api.QueryOptions{WaitIndex: index}); got.took != 0 || got.index != 0 || got.err != nil {
				t.Errorf("asked with %d, got %+v", index, got)
			}
		}
	})
}

// What hangs is answered when the fault is lifted, and lets go of a client that
// gives up.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		four(t, s)
		lift := s.Inject(consultest.Hang())
		ctx, giveUp := context.WithTimeout(t.Context(), time.Minute)
		defer giveUp()
		patient, hasty := ask(client, "web", nil), ask(client, "web", (&api.QueryOptions{}).WithContext(ctx))
		if got := <-hasty; !errors.Is(got.err, context.DeadlineExceeded) || got.took != time.Minute {
			t.Errorf("the hasty one got %+v", got)
		}
		time.Sleep(time.Hour)
		if !pending(patient) {
			t.Fatalf("the patient one got %+v", <-patient)
		}
		lift()
		if got := <-patient; got.shown != all {
			t.Errorf("the patient one got %+v", got)
		}
	})
}

// Nothing that is held back outlives the agent.
func TestCloseEndsWhatFaultsHoldBack(t *testing.T) {
	for name, fault := range map[string]consultest.Fault{
		"hang": consultest.Hang(), "delay": consultest.Delay(time.Hour), "slow body": consultest.SlowBody(time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
				s.Inject(fault.On(consultest.Everything))
				reads, writes := ask(agentOver(t, c), "web", nil), make(chan error, 1)
				go func() { writes <- agentOver(t, c).Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "db"}) }()
				waitFor(t, func() bool { return len(s.Queries()) == 1 })
				s.Close()
				if got := <-reads; got.err == nil {
					t.Errorf("got %+v", got)
				}
				<-writes // may have been refused, or answered by a header
				s.Inject(fault)
				<-s.Script(fault)
			})
		})
	}
}

// A client that leaves is let go of, whatever it has sent.
func TestAClientThatLeavesEndsAHang(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		// The client leaves as soon as its request is there.
		done := s.Script(consultest.Hang().On(consultest.Registrations).When(func(*http.Request) bool { leave(); return true }))
		err := agentOver(t, c).Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{Name: "web"},
			api.ServiceRegisterOpts{}.WithContext(ctx))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		<-done
	})
}

func TestAScriptIsPlayedInOrder(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		four(t, s)
		done := s.Script(consultest.NoLeader().Times(2), consultest.Pass(), consultest.Empty(), consultest.Reset(), consultest.Garbage())
		for i, want := range []string{"500", "500", all, "", "Get ", "invalid character", all, all} {
			_, _, err := client.Catalog().Service("web", "", nil) // is not in the play
			must(t, err)
			switch got := <-ask(client, "web", nil); {
			case got.err != nil && (want == "" || !strings.Contains(got.err.Error(), want)), got.err == nil && got.shown != want:
				t.Errorf("request %d got %+v, want %q", i+1, got, want)
			}
		}
		<-done
	})
}

// The steps of a script that alter lists are changes like any other: no client has
// to wait for the one after.
func TestAScriptHoldsNobodyUp(t *testing.T) {
	inBubble(t, func(t *testing.T, s *consultest.Server, client *api.Client, index uint64, waiting <-chan asked) {
		done := s.Script(consultest.Empty(), consultest.Without(0.5), consultest.SlowBody(time.Second), consultest.NoLeader())
		got := <-waiting
		for _, want := range []string{"", "web-3=passing web-4=passing", all} {
			if got.shown != want || got.err != nil || got.index < index {
				t.Errorf("got %+v, want %q", got, want)
			}
			index = got.index
			got = <-ask(client, "web", &api.QueryOptions{WaitIndex: index})
		}
		<-done
		if got.err == nil || time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) != 2*time.Second {
			t.Errorf("at %v got %+v", time.Now(), got)
		}
	})
}

// Pass leaves a query that waits where it is.
func TestPassBlocksAsEver(t *testing.T) {
	inBubble(t, func(t *testing.T, s *consultest.Server, client *api.Client, index uint64, waiting <-chan asked) {
		s.Script(consultest.Pass(), consultest.NoLeader())
		if !pending(waiting) {
			t.Fatalf("got %+v", <-waiting)
		}
		if got := <-ask(client, "web", nil); got.err == nil {
			t.Errorf("the second got %+v", got)
		}
		must(t, s.Deregister("web-1"))
		if got := <-waiting; got.took != time.Second || got.index <= index {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAFaultWithTimesEndsByItself(t *testing.T) {
	s, client := newAgent(t)
	four(t, s)
	lift := s.Inject(consultest.NoLeader().Times(2))
	for i := range 4 {
		if got := <-ask(client, "web", nil); got.err != nil != (i < 2) {
			t.Errorf("request %d got %+v", i+1, got)
		}
	}
	lift()
}

func TestFaultsAddUp(t *testing.T) {
	s, client := newAgent(t)
	four(t, s)
	lift := s.Inject(consultest.Without(0.5), consultest.IndexZero())
	s.Inject(consultest.Duplicates().Times(1))
	want := "web-3=passing web-3=passing web-4=passing web-4=passing"
	if got := <-ask(client, "web", nil); got.shown != want || got.index != 0 {
		t.Errorf("got %+v", got)
	}
	lift()
	if got := <-ask(client, "web", nil); got.shown != all || got.index == 0 {
		t.Errorf("got %+v", got)
	}
}

// Intercept answers in the agent's stead, and its answers meet faults as the agent's do.
func TestFaultsAlterWhatInterceptAnswers(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, `[1,2]`)
			w.(http.Flusher).Flush()
			return true
		})
		s.Inject(consultest.WithoutFirst(1))
		if got := do(t, c, "GET", "/v1/health/service/web", ""); got.body != "[2]" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestFlapNeedsATime(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "flap every 0s") {
			t.Errorf("panicked with %q", got)
		}
	}()
	s, _ := newAgent(t)
	s.Flap("web", 0)
}

func TestFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		must(t, s.Register(consultest.Service{Name: "web"}))
		stop := s.Flap("web", 100*time.Millisecond)
		got, meta := health(t, client, "web", false)
		for _, want := range []string{"web=passing", "web=critical", "web=passing", "web=critical"} {
			next := <-ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
			if next.shown != want || next.took != 100*time.Millisecond {
				t.Errorf("after %q got %+v", got, next)
			}
			got, meta.LastIndex = next.shown, next.index
		}
		stop()
		stop()
		time.Sleep(time.Second)
		if got, _ := health(t, client, "web", false); got != "web=passing" {
			t.Errorf("stopped, got %q", got)
		}
		s.Flap("later", time.Second)
		must(t, s.Register(consultest.Service{Name: "later"}))
		time.Sleep(1500 * time.Millisecond)
		must(t, s.SetStatus("later", consultest.HealthPassing))
		time.Sleep(time.Second)
		if got, _ := health(t, client, "later", false); got != "later=critical" {
			t.Errorf("registered later, got %q", got)
		}
		s.Close()
		s.Flap("web", time.Second)()
	})
}

// Faults that come and go under load, for the race detector; nothing stays behind.
func TestFaultsComeAndGoUnderLoad(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		four(t, s)
		var load, chaos sync.WaitGroup
		over := make(chan struct{})
		for range 4 {
			load.Go(func() {
				for index := uint64(0); ; {
					select {
					case <-over:
						return
					default:
						index = (<-ask(client, "web", &api.QueryOptions{WaitIndex: index, WaitTime: 5 * time.Millisecond})).index
					}
				}
			})
		}
		for _, fault := range []consultest.Fault{
			consultest.Empty().And(consultest.IndexBackwards()), consultest.Hang(), consultest.Reset(),
			consultest.SlowBody(time.Hour), consultest.Without(0.5), consultest.IndexZero(),
		} {
			chaos.Go(func() {
				for range 20 {
					lift := s.Inject(fault)
					s.Script(fault.Times(2), consultest.Pass())
					<-ask(client, "web", &api.QueryOptions{WaitTime: time.Millisecond, Datacenter: "nowhere"})
					lift()
					s.Heal()
				}
			})
		}
		waited := make(chan struct{})
		go func() { chaos.Wait(); close(waited) }()
		for done := false; !done; {
			select {
			case <-waited:
				done = true
			case <-time.After(time.Millisecond):
				s.Heal() // or the chaos waits for its own hanging requests
			}
		}
		close(over)
		load.Wait()
		if got, meta := health(t, client, "web", true); got != all || meta.LastIndex == 0 {
			t.Errorf("left behind: %q at %d", got, meta.LastIndex)
		}
	})
}

// A fault that keeps the index keeps it when it goes, too, and yet no query that waits
// keeps its answer.
func TestAKeptIndexIsNoTrap(t *testing.T) {
	inBubble(t, func(t *testing.T, s *consultest.Server, client *api.Client, index uint64, waiting <-chan asked) {
		lift := s.Inject(consultest.Empty().And(consultest.IndexKept()))
		<-waiting
		again := ask(client, "web", &api.QueryOptions{WaitIndex: index})
		if !pending(again) {
			t.Fatalf("got %+v", <-again)
		}
		lift()
		if got := <-again; got.shown != all || got.index != index || got.took != 0 {
			t.Errorf("got %+v, the index was %d", got, index)
		}
	})
}

// A query that goes round again is neither delayed twice nor allowed to wait anew.
func TestGoingRoundAgainCostsNoTime(t *testing.T) {
	inBubble(t, func(t *testing.T, s *consultest.Server, client *api.Client, index uint64, waiting <-chan asked) {
		time.Sleep(4 * time.Minute)
		s.Script(consultest.Pass())
		if got := <-waiting; got.took < 5*time.Minute || got.took > 5*time.Minute*17/16 {
			t.Errorf("got %+v", got)
		}
		s.Inject(consultest.Delay(time.Minute))
		delayed := ask(client, "web", &api.QueryOptions{WaitIndex: index})
		time.Sleep(2 * time.Minute)
		s.Inject(consultest.Empty())
		if got := <-delayed; got.shown != "" || got.took != 2*time.Minute {
			t.Errorf("got %+v", got)
		}
	})
}
