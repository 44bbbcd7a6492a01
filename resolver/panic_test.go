package resolver_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// ill are instances as the health checks keep them out.
func ill(status catalog.Status, numbers ...int) []catalog.Instance {
	list := instances(numbers...)
	for i := range list {
		list[i].Status = status
	}
	return list
}

// R24: all instances critical or fewer left than the panic threshold: calls go on.
// Maintenance that an operator set is obeyed unless policy says otherwise.
//
// Case R24: All critical, or too few healthy: calls go on, and it is said; maintenance is
// obeyed.
func TestTooFewHealthyInstancesAreNotAllThatIsCalled(t *testing.T) {
	for name, test := range map[string]struct {
		opts                           []resolver.Option
		healthy, critical, maintenance []int
		want                           []int
		panicking                      bool
	}{
		"enough":                        {nil, []int{1, 2, 3}, []int{4, 5, 6, 7, 8, 9, 10}, nil, []int{1, 2, 3}, false},
		"too few":                       {nil, []int{1, 2}, []int{3, 4, 5}, nil, []int{1, 2}, false},
		"fewer":                         {nil, []int{1}, []int{2, 3, 4}, nil, []int{1, 2, 3, 4}, true},
		"none":                          {nil, nil, []int{1, 2, 3}, nil, []int{1, 2, 3}, true},
		"none, and all obeyed":          {[]resolver.Option{resolver.WithPanicThreshold(0)}, nil, []int{1, 2, 3}, nil, nil, false},
		"another threshold":             {[]resolver.Option{resolver.WithPanicThreshold(0.5)}, []int{1, 2}, []int{3, 4, 5}, nil, []int{1, 2, 3, 4, 5}, true},
		"maintenance":                   {nil, nil, nil, []int{1, 2, 3}, nil, false},
		"maintenance does not count":    {nil, []int{1}, []int{2}, []int{3, 4, 5}, []int{1}, false},
		"maintenance beside critical":   {nil, nil, []int{1}, []int{2, 3}, []int{1}, true},
		"maintenance, called as wished": {[]resolver.Option{resolver.WithMaintenance()}, nil, []int{1}, []int{2, 3}, []int{1, 2, 3}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, "consul:///catalog", test.opts...)
				for range 2 { // the second says nothing new, and is not published: R8
					s.directory.report(catalog.Snapshot{
						Instances: instances(test.healthy...),
						Unhealthy: append(ill(catalog.Critical, test.critical...), ill(catalog.Maintenance, test.maintenance...)...),
					})
				}
				var want []string
				for _, n := range test.want {
					want = append(want, address(n))
				}
				got := s.endpoints()
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("endpoints are %v, want %v", got, want)
				}
				if n := s.channel.updates(); n != 1 {
					t.Errorf("%d updates, want 1", n)
				}
				stats := s.builder.Stats()[0]
				if stats.Panicking != test.panicking || stats.Passing != len(test.healthy) ||
					stats.Critical != len(test.critical) || stats.Maintenance != len(test.maintenance) {
					t.Errorf("the statistics are %+v", stats)
				}
			})
		})
	}
}

// R24, with an agent: the health checks of all fail, and not one call. It is said once,
// and so is its end; the connections stay.
//
// Case R24
func TestAllCriticalFailsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := newMesh(t)
		for n := range 3 {
			m.start(n + 1)
		}
		conn := m.connect(resolver.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		mustCall(t, conn, 1)
		synctest.Wait()
		for _, s := range []string{consultest.HealthCritical, consultest.HealthPassing} {
			for n := range 3 {
				if err := m.agent.SetStatus(fmt.Sprint("catalog-", n+1), s); err != nil {
					t.Fatal(err)
				}
			}
			for range 60 { // beyond the grace time
				time.Sleep(time.Second)
				mustCall(t, conn, 10)
			}
		}
		conn.Close()
		if n := m.dialed(); n != 3 {
			t.Errorf("%d connections were made, want one to each", n)
		}
		if n := strings.Count(log.String(), "too few instances are healthy"); n != 1 || !strings.Contains(log.String(), "unhealthy=3") {
			t.Errorf("it is logged %d times, want once: %s", n, log.String())
		}
		if n := strings.Count(log.String(), "enough instances are healthy again"); n == 0 {
			t.Errorf("the end is not logged: %s", log.String())
		}
	})
}

// R24: an operator takes all out, one by one.
//
// Case R24
func TestMaintenanceIsObeyed(t *testing.T) {
	for name, opts := range map[string][]resolver.Option{"by default": nil, "not": {resolver.WithMaintenance()}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				m.start(1)
				m.start(2)
				conn := m.connect(opts...)
				defer conn.Close()
				mustCall(t, conn, 1)
				for n := range 2 {
					m.maintain(n + 1)
					time.Sleep(time.Minute)
				}
				err := call(conn)
				if opts == nil && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no healthy instance")) {
					t.Errorf("with all in maintenance a call answers %v, want Unavailable", err)
				}
				if opts != nil && err != nil {
					t.Errorf("with all in maintenance, which policy ignores, a call answers %v", err)
				}
			})
		})
	}
}

// maintain puts catalog-n into maintenance, as `consul maint` does.
func (m *mesh) maintain(n int) {
	m.t.Helper()
	request, err := http.NewRequest(http.MethodPut, fmt.Sprintf("http://127.0.0.1:8500/v1/agent/service/maintenance/catalog-%d?enable=true", n), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	response, err := m.agent.Transport().RoundTrip(request)
	if err != nil {
		m.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		m.t.Fatal(response.Status)
	}
}

// R24, with failover: healthy instances of another datacenter come before unhealthy ones
// of the first; these before none at all.
//
// Case R24
func TestOtherDatacentersComeBeforePanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, channel := pair(t)
		critical := catalog.Snapshot{Unhealthy: ill(catalog.Critical, 1)}
		near.directory.report(critical)
		if got := far.answer(2); !slices.Equal(got, []string{address(2)}) {
			t.Errorf("endpoints are %v, want those of the second datacenter", got)
		}
		far.answer()
		time.Sleep(16 * time.Second)
		if got := channel.endpoints(); !slices.Equal(got, []string{address(1)}) {
			t.Errorf("endpoints are %v, want the unhealthy one of the first datacenter", got)
		}
		near.directory.fail(errors.New("refused"))
		time.Sleep(time.Hour)
		if got := channel.endpoints(); !slices.Equal(got, []string{address(1)}) {
			t.Errorf("endpoints are %v while the first datacenter is away, want its last list", got)
		}
	})
}

// R24, R25: what was called in spite of its health serves after an idle cycle.
//
// Case R24
func TestUnhealthyInstancesServeAfterAnIdleCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := &scripted{}
		b := resolver.NewBuilder(directory, resolver.WithLogger(silent))
		for range 2 {
			cc := &recorder{}
			r := build(t, b, "consul:///catalog", cc)
			synctest.Wait()
			before := cc.updates()
			directory.report(catalog.Snapshot{Unhealthy: ill(catalog.Critical, 1, 2)})
			synctest.Wait()
			if got := addressesOfState(cc); len(got) != 2 {
				t.Errorf("endpoints are %v, want both", got)
			}
			time.Sleep(time.Minute)
			if got := addressesOfState(cc); len(got) != 2 {
				t.Errorf("endpoints are %v after the grace time, want both", got)
			}
			if before > 1 {
				t.Errorf("%d updates before an answer", before)
			}
			r.Close()
		}
	})
}

func addressesOfState(cc *recorder) (all []string) {
	for _, e := range cc.last().Endpoints {
		all = append(all, e.Addresses[0].Addr)
	}
	return all
}
