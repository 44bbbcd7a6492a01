package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/meshlite-go/meshlite/internal/freeport"
)

// The faults in which Consul's view of the instances is wrong.

const (
	deadEach = 100 // registrations that refuse connections, and as many that never answer
	slowMore = time.Second
)

// adviceRows are among rows.
func adviceRows() []row {
	return []row{{
		// Case R24
		name: "all-critical", lasts: 25 * time.Second, lastsShort: 20 * time.Second,
		does:   "a check of each instance is critical, longer than the grace time, and all answer",
		inject: failChecks, heal: passChecks,
		wanted: "all registered", healed: allRegistered,
		aim: aim{heal: 2 * time.Second},
	}, {
		// Case R24
		name: "all-in-maintenance", lasts: 25 * time.Second, lastsShort: 20 * time.Second,
		does:   "all instances are put into maintenance, longer than the grace time; the client has WithMaintenance",
		needs:  needs{maintenance: true},
		inject: maintainAll, heal: endMaintenance,
		wanted: "all registered", healed: allRegistered,
		aim: aim{heal: 2 * time.Second},
	}, {
		// Case R23
		name: "dead-registrations", lasts: 10 * time.Second, lastsShort: 3 * time.Second,
		does:   fmt.Sprintf("%d dead instances are registered, of which one half refuses and one says nothing, and a client starts", 2*deadEach),
		inject: registerDead, heal: deregisterDead,
		wanted: "all that live are called", healed: allCalled,
		aim: aim{heal: time.Second},
	}, {
		// Case R25
		name: "slow-directory", lasts: 6 * time.Second, lastsShort: 3 * time.Second,
		does:    "a client with a snapshot on disk starts while what Consul and it say to each other takes 1 s each way",
		needs:   needs{proxy: true, snapshots: true},
		prepare: leaveSnapshot,
		inject:  startWithSlowConsul, heal: healProxy,
		wanted: "all are called", healed: allCalled,
		aim: aim{heal: time.Second},
	}}
}

// outOf fails unless Consul calls no instance passing soon.
func outOf(ctx context.Context, s *scene) error {
	none := func(ctx context.Context) bool {
		passing, err := s.agent.passing(ctx, service)
		return err == nil && len(passing) == 0
	}
	if _, err := await(ctx, noticeable, none); err != nil {
		return fmt.Errorf("all instances were to be unhealthy, and Consul says that some pass: %w", err)
	}
	return nil
}

func failChecks(ctx context.Context, s *scene) error {
	s.say("a check of each instance is critical for %v", s.lasts)
	s.touchAll()
	err := whileItLasts(ctx, s, func() error {
		for _, i := range s.living {
			check := map[string]string{"ID": doubt(i.ID), "Name": "doubt", "ServiceID": i.ID, "TTL": "1h", "Status": "critical"}
			if err := s.agent.put(ctx, "/v1/agent/check/register", check); err != nil {
				return err
			}
		}
		return outOf(ctx, s)
	})
	return cmp.Or(err, outOf(ctx, s)) // to the end
}

func passChecks(ctx context.Context, s *scene) error {
	for _, i := range s.living {
		if err := s.agent.put(ctx, "/v1/agent/check/deregister/"+doubt(i.ID), nil); err != nil {
			return err
		}
	}
	return nil
}

// doubt is the id of the check that fails the instance with id.
func doubt(id string) string { return "doubt-" + id }

func maintainAll(ctx context.Context, s *scene) error {
	s.say("all instances are in maintenance for %v", s.lasts)
	s.touchAll()
	err := whileItLasts(ctx, s, func() error {
		for _, i := range s.living {
			if err := s.agent.maintain(ctx, i.ID, true); err != nil {
				return err
			}
		}
		return outOf(ctx, s)
	})
	return cmp.Or(err, outOf(ctx, s)) // to the end
}

func endMaintenance(ctx context.Context, s *scene) error {
	for _, i := range s.living {
		if err := s.agent.maintain(ctx, i.ID, false); err != nil {
			return err
		}
	}
	return nil
}

// registerDead lets a new client find the few that live among many.
func registerDead(ctx context.Context, s *scene) error {
	silent, err := net.Listen("tcp", "0.0.0.0:0") // accepts connections and never answers
	if err != nil {
		return err
	}
	s.silent = silent
	refusing, err := freeport.Address()
	if err != nil {
		return err
	}
	s.say("%d dead instances are registered, and a new client starts", 2*deadEach)
	for n, address := range []string{silent.Addr().String(), refusing} {
		_, port, _ := net.SplitHostPort(address)
		number, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		for i := range deadEach {
			host := fmt.Sprintf("127.0.%d.%d", n+1, i+1)
			id := fmt.Sprintf("dead-%d-%d", n, i)
			dead := map[string]any{"ID": id, "Name": service, "Address": host, "Port": number}
			if err := s.agent.put(ctx, "/v1/agent/service/register", dead); err != nil {
				return err
			}
			s.dead = append(s.dead, id)
			s.touched[net.JoinHostPort(host, port)] = true
		}
	}
	all := func(ctx context.Context) bool {
		passing, err := s.agent.passing(ctx, service)
		return err == nil && len(passing) == len(s.living)+len(s.dead)
	}
	if _, err := await(ctx, wholePatience, all); err != nil {
		return fmt.Errorf("the dead instances are not registered: %w", err)
	}
	if err := s.renew(); err != nil {
		return err
	}
	s.customer.begin(ctx)
	return pause(ctx, s.lasts)
}

func deregisterDead(ctx context.Context, s *scene) error {
	for _, id := range s.dead {
		if err := s.agent.deregister(ctx, id); err != nil {
			return err
		}
	}
	s.dead = nil
	return nil
}

func startWithSlowConsul(ctx context.Context, s *scene) error {
	s.say("consul is slow by %v each way, and a new client starts", slowMore)
	s.proxy.Slow(slowMore, 0)
	s.customer.begin(ctx)
	return pause(ctx, s.lasts)
}

// put sends content as JSON, or nothing.
func (a agent) put(ctx context.Context, path string, content any) error {
	if content == nil {
		_, err := a.do(ctx, http.MethodPut, path, nil)
		return err
	}
	body, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = a.do(ctx, http.MethodPut, path, body)
	return err
}
