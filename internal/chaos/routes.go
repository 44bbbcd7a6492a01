package chaos

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

// The faults of what Consul's config entries route.

const (
	one, two = "v1", "v2" // subsets
	canary   = 10         // percent of the calls to v2

	shifts = 12
	// neighbours are services that the client calls, too. Each has two watches, of its instances and
	// of its chain; with more than 60 the chains would share queries.
	neighbours = 29
	// moved is how long no call may go to the arm that has none any more.
	moved = 200 * time.Millisecond
)

// routeRows are among rows.
func routeRows() []row {
	return []row{{
		// Case T3
		name: "arm-emptied", short: true,
		does:    fmt.Sprintf("the only instance of an arm with %d %% of the calls is killed with SIGKILL; calls are retried", canary),
		needs:   needs{attempts: 2},
		prepare: splitCanary,
		inject:  killInstance,
		wanted:  "the client gives the arm no share, and the other all calls", healed: emptied,
		aim: aim{heal: 2 * time.Second},
	}, {
		// Case T6
		name: "arm-shifted", lasts: 3 * time.Second, lastsShort: time.Second, times: shifts,
		does:    fmt.Sprintf("a service-splitter is written, which moves all calls from one arm to the other, %d times; the client has %d watches", shifts, 2*(neighbours+1)),
		needs:   needs{neighbours: neighbours},
		prepare: splitWhole,
		inject:  shift,
		wanted:  fmt.Sprintf("all calls of %v go to the other arm", moved), healed: shifted, judged: movedWithin,
		aim: aim{heal: time.Second},
	}}
}

// arms are the subsets of the service, by the instances of each.
type arms map[string][]*shop.Instance

// filter is the expression of Consul that has these instances of one machine and no others.
func filter(instances []*shop.Instance) string {
	var all []string
	for _, i := range instances {
		_, port, _ := net.SplitHostPort(i.Address)
		all = append(all, "Service.Port == "+port)
	}
	return strings.Join(all, " or ")
}

// split writes the weight of v2, in percent; v1 has the rest.
func split(ctx context.Context, s *scene, weight int) error {
	return s.agent.put(ctx, "/v1/config", map[string]any{"Kind": "service-splitter", "Name": service, "Splits": []map[string]any{
		{"ServiceSubset": one, "Weight": 100 - weight}, {"ServiceSubset": two, "Weight": weight}}})
}

// route has calls go by two arms, with weight percent to v2.
func route(ctx context.Context, s *scene, weight int, to arms) error {
	s.say("%d %% of the calls go to v2, which is %d of %d instances", weight, len(to[two]), size)
	s.arms = to
	for _, entry := range []map[string]any{
		{"Kind": "service-defaults", "Name": service, "Protocol": "grpc"},
		{"Kind": "service-resolver", "Name": service, "Subsets": map[string]any{
			one: map[string]any{"Filter": filter(to[one])}, two: map[string]any{"Filter": filter(to[two])}}},
	} {
		if err := s.agent.put(ctx, "/v1/config", entry); err != nil {
			return err
		}
	}
	return split(ctx, s, weight)
}

// unroute deletes what route has written. The client connects anew then: what it has done
// before is judged now.
func unroute(ctx context.Context, s *scene) error {
	if s.arms == nil {
		return nil
	}
	s.reconnected = s.connectedAgain(s.customer.tally, slices.Concat(s.arms[one], s.arms[two]))
	s.arms = nil
	s.touchAll()
	for _, kind := range []string{"service-splitter", "service-resolver", "service-defaults"} {
		if _, err := s.agent.do(ctx, http.MethodDelete, "/v1/config/"+kind+"/"+service, nil); err != nil {
			return err
		}
	}
	return nil
}

// splitCanary lets v2 be the oldest instance, and waits until all are called.
func splitCanary(ctx context.Context, s *scene) error {
	if err := route(ctx, s, canary, arms{one: slices.Clone(s.living[1:]), two: slices.Clone(s.living[:1])}); err != nil {
		return err
	}
	if err := steady(ctx, s); err != nil {
		return err
	}
	if got := s.customer.share(two); !nearPercent(got, canary) {
		return fmt.Errorf("v2 has the share %v of the calls, not %d %%", got, canary)
	}
	return nil
}

// nearPercent reports whether a part is that many percent, to the tenth.
func nearPercent(part, percent float64) bool { return math.Abs(100*part-percent) <= 0.1 }

// emptied reports whether all calls go to v1.
func emptied(_ context.Context, s *scene) bool {
	return s.customer.share(two) == 0 && s.customer.share(one) == 1
}

// splitWhole sends all calls to v1.
func splitWhole(ctx context.Context, s *scene) error {
	s.touchAll() // an arm without calls is not connected
	if err := route(ctx, s, 0, arms{one: slices.Clone(s.living[:1]), two: slices.Clone(s.living[1:])}); err != nil {
		return err
	}
	if err := registerNeighbours(ctx, s); err != nil {
		return err
	}
	s.to = one
	s.customer.begin(ctx)
	if _, err := await(ctx, wholePatience, func(ctx context.Context) bool { return shifted(ctx, s) }); err != nil {
		return fmt.Errorf("the calls do not go to v1 alone: %w", err)
	}
	return nil
}

// shift moves all calls to the other arm.
func shift(ctx context.Context, s *scene) error {
	if err := pause(ctx, s.lasts); err != nil {
		return err
	}
	weight := 0
	if s.to == one {
		s.to, weight = two, 100
	} else {
		s.to = one
	}
	s.say("all calls shall go to %s", s.to)
	s.wroteAt = time.Now()
	return split(ctx, s, weight)
}

// registerNeighbours registers the other services of the client, each with an instance, and waits
// for their watches.
func registerNeighbours(ctx context.Context, s *scene) error {
	host, port, err := net.SplitHostPort(s.living[0].Address)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	for n := range s.row.needs.neighbours {
		name := neighbour(n)
		s.beside = append(s.beside, name)
		if err := s.agent.put(ctx, "/v1/agent/service/register", map[string]any{"ID": name, "Name": name, "Address": host, "Port": number}); err != nil {
			return err
		}
	}
	if _, err := await(ctx, wholePatience, func(context.Context) bool { return s.customer.neighboursReady() }); err != nil {
		return fmt.Errorf("not all of the client's services are connected: %w", err)
	}
	return nil
}

// movedWithin measures how long the other arm has had calls.
func movedWithin(s *scene) error {
	var last time.Duration
	for name, instances := range s.arms {
		for _, i := range instances {
			if name != s.to {
				last = max(last, s.customer.tally.lastAnswered(i.Address).Sub(s.wroteAt))
			}
		}
	}
	s.moves = append(s.moves, last)
	slices.Sort(s.moves)
	s.figures = fmt.Sprintf("from the write to the last call to the other arm %.0f ms, and %.0f ms at most, of %d writes",
		inMillis(s.moves[len(s.moves)/2]), inMillis(s.moves[len(s.moves)-1]), len(s.moves))
	return nil
}

// shifted reports whether all calls go to the arm that has them.
func shifted(_ context.Context, s *scene) bool {
	since := time.Now().Add(-moved)
	for name, instances := range s.arms {
		for _, i := range instances {
			if s.customer.tally.answers(i.Address, since) != (name == s.to) {
				return false
			}
		}
	}
	return true
}
