package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// RoutesOptions are those of [Routes].
type RoutesOptions struct {
	Service    string
	Agent      string   // host:port; empty is the one that the environment names
	Datacenter string   // for which the chain is compiled; empty is the agent's own
	Clients    []string // host:port of admin pages, instead of those in Consul
	Pages      PageAccess
	NoClients  bool // ask none
	Format     Format
}

// routesReport is the chain of a service and what its clients make of it.
type routesReport struct {
	Service    string        `json:"service"`
	Datacenter string        `json:"datacenter"`
	Index      uint64        `json:"index"`
	Sticky     string        `json:"sticky"`
	Refused    []string      `json:"refused"` // parts that are not supported
	Routes     []routeReport `json:"routes"`  // none is plain discovery
	Clients    []process     `json:"clients"` // that were asked
	Asked      int           `json:"asked"`   // of them, those that call the service by a chain
	Errors     []string      `json:"errors"`  // of clients that do not go by the latest chain
}

type routeReport struct {
	Name  string `json:"name"`
	Match string `json:"match"`
	// Rewrite replaces what is matched of the path, of HTTP alone.
	Rewrite string      `json:"rewrite,omitempty"`
	Arms    []armReport `json:"arms"`
}

type armReport struct {
	Name     string   `json:"name"`
	Weight   float64  `json:"weight"` // percent, in the chain
	Target   string   `json:"target"`
	Failover []string `json:"failover"`
	Live     live     `json:"live"` // over all clients
}

// live is what clients report of an arm.
type live struct {
	Share     float64 `json:"share"` // percent of the route's attempts
	Attempts  uint64  `json:"attempts"`
	Succeeded uint64  `json:"succeeded"` // calls
	Failed    uint64  `json:"failed"`
	Usable    int     `json:"usable"` // endpoints, of the client that has fewest
	Known     int     `json:"known"`
	seen      bool
}

// Routes shows the discovery chain of a service, and for each arm what clients report.
func Routes(ctx context.Context, o RoutesOptions, streams Streams) error {
	if err := o.Pages.check(o.Clients); err != nil {
		return err
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	report, err := readRoutes(ctx, directory, o)
	if err != nil {
		return err
	}
	if !o.NoClients && len(report.Routes) > 0 {
		report.ask(ctx, o, streams.Err)
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, report)
	}
	return report.write(streams.Out)
}

func readRoutes(ctx context.Context, directory *consul.Directory, o RoutesOptions) (*routesReport, error) {
	report := &routesReport{Service: o.Service, Refused: []string{}, Routes: []routeReport{}, Clients: []process{}, Errors: []string{}}
	chain, err := route.ForItsProtocol(directory.Chain(ctx, o.Service, o.Datacenter))
	var refused *route.RefusedError
	switch {
	case errors.As(err, &refused):
		report.Index, report.Refused = refused.Index, refused.Parts
		return report, nil
	case err != nil:
		return nil, err
	case chain == nil:
		return report, nil
	}
	report.Datacenter, report.Index, report.Sticky = chain.Datacenter, chain.Index, chain.Sticky
	for _, r := range chain.Routes {
		one := routeReport{Name: r.Name, Match: describeMatch(&r.Match), Rewrite: r.PrefixRewrite, Arms: []armReport{}}
		for _, a := range r.Arms {
			arm := armReport{Name: a.Name, Weight: a.Weight, Target: chain.Targets[a.Target].String(), Failover: []string{}}
			for _, id := range a.Failover {
				arm.Failover = append(arm.Failover, chain.Targets[id].String())
			}
			one.Arms = append(one.Arms, arm)
		}
		report.Routes = append(report.Routes, one)
	}
	return report, nil
}

// ask adds what clients report. Without any the chain is shown alone.
func (r *routesReport) ask(ctx context.Context, o RoutesOptions, stderr io.Writer) {
	all, err := askProcesses(ctx, ProcessesOptions{Agent: o.Agent, Clients: o.Clients, Pages: o.Pages}, stderr, func(a asker, address string) ([]routes.Stats, error) {
		return routesOf(ctx, a, address)
	})
	if err != nil {
		fmt.Fprintln(stderr, "without clients:", oneLine(err.Error()))
		return
	}
	for i, p := range all.processes {
		for _, stats := range all.answers[i] {
			if stats.Service == r.Service {
				r.Asked++
				r.take(p, stats)
			}
		}
		r.Clients = append(r.Clients, p)
	}
	for i := range r.Routes {
		r.Routes[i].share()
	}
}

// routesOf reads the routes from the admin page at address.
func routesOf(ctx context.Context, a asker, address string) ([]routes.Stats, error) {
	var page struct{ Routes []routes.Stats }
	if err := a.read(ctx, address, &page); err != nil {
		return nil, err
	}
	if page.Routes == nil {
		return nil, without("routes")
	}
	return page.Routes, nil
}

// take adds what one channel of a client reports.
func (r *routesReport) take(p process, stats routes.Stats) {
	if stats.Error != "" {
		r.Errors = append(r.Errors, p.name()+": "+oneLine(stats.Error))
	}
	for _, from := range stats.Routes {
		i := slices.IndexFunc(r.Routes, func(one routeReport) bool { return one.Name == from.Name })
		if i < 0 {
			continue
		}
		for _, arm := range from.Arms {
			if k := slices.IndexFunc(r.Routes[i].Arms, func(a armReport) bool { return a.Name == arm.Name }); k >= 0 {
				r.Routes[i].Arms[k].Live.add(arm)
			}
		}
	}
}

func (l *live) add(arm routes.ArmStats) {
	usable, known := 0, 0
	for _, t := range arm.Targets {
		l.Attempts += t.Picked
		l.Succeeded += t.Succeeded
		l.Failed += t.Failed
	}
	if len(arm.Targets) > 0 {
		usable, known = arm.Targets[0].Usable, arm.Targets[0].Known
	}
	if !l.seen || usable < l.Usable {
		l.Usable, l.Known = usable, known
	}
	l.seen = true
}

// share computes the shares of the arms.
func (r *routeReport) share() {
	var all uint64
	for _, a := range r.Arms {
		all += a.Live.Attempts
	}
	for i := range r.Arms {
		if all > 0 {
			r.Arms[i].Live.Share = 100 * float64(r.Arms[i].Live.Attempts) / float64(all)
		}
	}
}

func (r *routesReport) write(out io.Writer) error {
	if len(r.Refused) > 0 {
		fmt.Fprintf(out, "%s: its chain is refused: clients keep their last one, and calls of those without one fail\n", oneLine(r.Service))
		for _, part := range r.Refused {
			fmt.Fprintf(out, "  ! %s\n", oneLine(part))
		}
		return nil
	}
	if len(r.Routes) == 0 {
		_, err := fmt.Fprintf(out, "%s has no routes: no config entry of Consul says more than its name, so all calls go to its instances\n", oneLine(r.Service))
		return err
	}
	fmt.Fprintf(out, "%s in %s, index %d", oneLine(r.Service), oneLine(r.Datacenter), r.Index)
	if r.Sticky != "" {
		fmt.Fprintf(out, ", one arm for each value of %s", oneLine(r.Sticky))
	}
	if len(r.Clients) > 0 {
		fmt.Fprintf(out, ", channels: %d", r.Asked)
	}
	fmt.Fprintln(out)
	g := &grid{fields: []field{{head: "ROUTE"}, {head: "MATCH", least: 16}, {head: "ARM"}, {head: "TARGET", least: 12, drop: 2},
		{head: "WEIGHT"}, {head: "SHARE"}, {head: "ATTEMPTS", drop: 3}, {head: "SUCCESS"}, {head: "USABLE", drop: 4}, {head: "FAILOVER", drop: 1, least: 12}}}
	for _, one := range r.Routes {
		for i, a := range one.Arms {
			name, match := cell(one.Name), cell(one.Match)
			if one.Rewrite != "" {
				match += " -> " + cell(one.Rewrite)
			}
			if i > 0 {
				name, match = "", ""
			}
			g.add(append([]string{name, match, cell(a.Name), cell(a.Target), fmt.Sprintf("%.4g%%", a.Weight)}, a.cells()...)...)
		}
	}
	tables := newTables(out)
	if err := tables.write(g); err != nil {
		return err
	}
	for _, problem := range r.Errors {
		fmt.Fprintf(out, "  ! %s\n", problem)
	}
	return tables.close()
}

// cells are those of what is live, and of the failover.
func (a *armReport) cells() []string {
	failover := cell(strings.Join(a.Failover, ", then "))
	if !a.Live.seen {
		return []string{"-", "-", "-", "-", failover}
	}
	success := "-"
	if calls := a.Live.Succeeded + a.Live.Failed; calls > 0 {
		success = fmt.Sprintf("%.4g%%", 100*float64(a.Live.Succeeded)/float64(calls))
	}
	return []string{fmt.Sprintf("%.4g%%", a.Live.Share), fmt.Sprint(a.Live.Attempts), success, fmt.Sprintf("%d of %d", a.Live.Usable, a.Live.Known), failover}
}

// describeMatch is a match for people.
func describeMatch(m *route.Match) string {
	var all []string
	add := func(what, value string) {
		if value != "" {
			all = append(all, what+value)
		}
	}
	add("", m.PathExact)
	if m.PathPrefix != "/" { // which every path has
		add("", m.PathPrefix+strings.Repeat("*", min(1, len(m.PathPrefix))))
	}
	add("~ ", m.PathRegex)
	for _, h := range m.Headers {
		all = append(all, describeHeader(h))
	}
	for _, q := range m.Query {
		switch {
		case q.Exact != "":
			all = append(all, "?"+q.Name+"="+q.Exact)
		case q.Regex != "":
			all = append(all, "?"+q.Name+" ~ "+q.Regex)
		default:
			all = append(all, "?"+q.Name)
		}
	}
	if len(m.Methods) > 0 {
		all = append(all, strings.Join(m.Methods, "|"))
	}
	if len(all) == 0 {
		return "every call"
	}
	return strings.Join(all, ", ")
}

func describeHeader(h route.HeaderMatch) string {
	not := ""
	if h.Invert {
		not = "not "
	}
	switch {
	case h.Exact != "":
		return not + h.Name + " = " + h.Exact
	case h.Prefix != "":
		return not + h.Name + " = " + h.Prefix + "*"
	case h.Suffix != "":
		return not + h.Name + " = *" + h.Suffix
	case h.Contains != "":
		return not + h.Name + " = *" + h.Contains + "*"
	case h.Regex != "":
		return not + h.Name + " ~ " + h.Regex
	default:
		return not + h.Name
	}
}
