package cli

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver"
)

// writePicks writes the clients that call service. As JSON those that could not be
// asked are among them.
func writePicks(out io.Writer, format Format, service string, clients []client) error {
	var shown []client
	for _, c := range clients {
		if len(c.Targets) > 0 || c.Error != "" && format == JSON {
			c.Targets = append([]resolver.Picks{}, c.Targets...)
			shown = append(shown, c)
		}
	}
	if format == JSON {
		return WriteJSON(out, struct {
			Service string   `json:"service"`
			Clients []client `json:"clients"`
		}{service, shown})
	}
	tables := newTables(out)
	first := true
	for _, c := range shown {
		for _, p := range c.Targets {
			if !first {
				fmt.Fprintln(out)
			}
			first = false
			if err := writeTarget(tables, c, p); err != nil {
				return err
			}
		}
	}
	return tables.close()
}

func writeTarget(t *tables, c client, p resolver.Picks) error {
	out := t.out
	fmt.Fprintln(out, c.name()+", "+oneLine(p.Directory+questions(p)))
	if p.Panic {
		fmt.Fprintln(out, "panic: so few can be used that the ejected are used, too")
	}
	if len(p.Endpoints) == 0 {
		_, err := fmt.Fprintln(out, "no endpoints: the service has no instance, or one of gRPC's own policies picks")
		return err
	}
	g := &grid{fields: []field{{head: "ADDRESS"}, {head: "ZONE", drop: 2}, {head: "WEIGHT", drop: 4}, {head: "IN FLIGHT", drop: 5},
		{head: "LATENCY", drop: 3}, {head: "PICKS"}, {head: "FAILS", drop: 1}, {head: "STATE", least: 20}}}
	for _, e := range p.Endpoints {
		g.add(cell(e.Address), cell(e.Zone), orDash(strconv.Itoa(int(e.Weight))), strconv.Itoa(int(e.InFlight)), latency(e),
			fmt.Sprintf("%d %s", e.Picks, percent(e.Share)), percent(e.Failing), cell(stateOf(e)))
	}
	return t.write(g)
}

// questions lists the parameters of a target's queries.
func questions(p resolver.Picks) string {
	var all []string
	for _, q := range p.Queries {
		q.Service = ""
		if key := q.Key(); key != "" {
			all = append(all, key)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return ", " + strings.Join(all, ", then ")
}

// stateOf describes how the client uses an instance.
func stateOf(e balancer.EndpointStats) string {
	text := strings.ReplaceAll(string(e.State), "_", " ")
	switch {
	case e.State == balancer.SlowStarted:
		text += " " + percent(e.Warm)
	case e.State == balancer.Ejected:
		text += ": " + reason(e.Reason) + ", " + probe(e.Probe)
	case e.Reason != "":
		text += ", ejected: " + reason(e.Reason)
	}
	return text
}

func reason(r balancer.Reason) string {
	switch r {
	case balancer.SuccessRate:
		return "fails more than the others"
	case balancer.Probe:
		return "the probe has failed"
	default:
		return strings.ReplaceAll(string(r), "_", " ")
	}
}

// probe is the time until the next probe of an ejected instance.
func probe(seconds float64) string {
	if !(seconds > 0) {
		return "probe with the next call"
	}
	return "probe in " + (time.Duration(math.Ceil(min(seconds, mostSeconds))) * time.Second).String()
}

// mostSeconds bounds a reported time, so that it fits a time.Duration.
const mostSeconds = 1e6

func latency(e balancer.EndpointStats) string {
	seconds := min(e.Latency/1000, mostSeconds)
	if !(seconds > 0) {
		return "-"
	}
	return short(time.Duration(seconds * float64(time.Second)))
}

func percent(part float64) string { return fmt.Sprintf("%.0f%%", 100*min(max(part, 0), 1)) }

// orDash is "-" for unknown numbers.
func orDash(number string) string {
	if number == "0" {
		return "-"
	}
	return number
}
