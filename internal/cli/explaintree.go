package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/explain"
)

// node is a line of a tree, with those below it.
type node struct {
	text string
	subs []*node
}

// add adds a line below n. Its text may come from a directory or another process.
func (n *node) add(format string, args ...any) *node {
	sub := &node{text: oneLine(fmt.Sprintf(format, args...))}
	n.subs = append(n.subs, sub)
	return sub
}

func (n *node) write(out *strings.Builder, indent string) {
	for i, sub := range n.subs {
		branch, below := "├─ ", "│  "
		if i == len(n.subs)-1 {
			branch, below = "└─ ", "   "
		}
		out.WriteString(indent + branch + sub.text + "\n")
		sub.write(out, indent+below)
	}
}

// writeExplanation writes an explanation as a tree.
func writeExplanation(out io.Writer, e *explain.Explanation) error {
	root := &node{}
	root.addRouting(&e.Routing)
	root.addPolicy(e)
	for _, note := range e.Notes {
		root.add("! %s", note)
	}
	var text strings.Builder
	text.WriteString(oneLine(e.Method+" to "+e.Target+seenBy(e)) + "\n")
	root.write(&text, "")
	_, err := io.WriteString(out, text.String())
	return err
}

func seenBy(e *explain.Explanation) string {
	switch {
	case e.Client == "":
		return ", by a channel of this tool"
	case e.Channels > 1:
		return fmt.Sprintf(", by the client at %s (one of its %d channels)", e.Client, e.Channels)
	default:
		return ", by the client at " + e.Client
	}
}

func (n *node) addRouting(r *routes.Explanation) {
	if r.Fails {
		n.add("✗ the call fails: %s", r.Error)
		return
	}
	switch {
	case len(r.Routes) == 0 && len(r.Arms) == 0:
		return
	case len(r.Routes) == 0:
		n = n.add("no routes: the call goes to the instances of the service")
	default:
		n.addRoutes(r)
		chosen := r.Routes[len(r.Routes)-1]
		n = n.add("✓ %s", routeName(chosen.Name))
	}
	if r.Error != "" {
		n.add("! an older chain is in use, since the latest is refused: %s", r.Error)
	}
	if r.Idle {
		n.add("! the channel is not connected: it connects with the next call, and all targets count as healthy")
	}
	for _, arm := range r.Arms {
		n.addArm(r, &arm)
	}
}

func (n *node) addRoutes(r *routes.Explanation) {
	for _, v := range r.Routes {
		if !v.Matches {
			n.add("✗ %s: %s", routeName(v.Name), v.Reason)
		}
	}
}

// routeName is "route default"; Consul's other routes have names such as "route 1".
func routeName(name string) string {
	if strings.HasPrefix(name, "route ") {
		return name
	}
	return "route " + name
}

func (n *node) addArm(r *routes.Explanation, a *routes.ArmExplanation) {
	if a.Name != "" {
		text := fmt.Sprintf("arm %s: %.4g%% of such calls", a.Name, a.Share)
		switch {
		case r.Stuck && a.Share > 0:
			text += fmt.Sprintf(", by the value of %s", r.Sticky)
		case a.Empty && a.Share > 0: // all are
			text += ", although no target is usable"
		case a.Empty:
			text += fmt.Sprintf(", not its %.4g%%: no target is usable", a.Weight)
		case fmt.Sprintf("%.4g", a.Weight) != fmt.Sprintf("%.4g", a.Share):
			text += fmt.Sprintf(", %.4g%% in the chain", a.Weight)
		}
		n = n.add("%s", text)
	}
	if a.Share == 0 && a.Weight == 0 {
		return
	}
	for i := range a.Targets {
		n.addTarget(&a.Targets[i], a)
	}
}

func (n *node) addTarget(t *routes.TargetExplanation, a *routes.ArmExplanation) {
	if t.Name != "" {
		text := t.Name
		if t.Failover {
			text = "failover " + text
		}
		text += fmt.Sprintf(": %d of %d instances usable", t.Usable, t.Known)
		switch {
		case t.Share == 0 && a.Share > 0 && t.Failover:
			text += ", not in use"
		case t.Share != a.Share || len(a.Targets) > 1:
			text += fmt.Sprintf(", %.4g%% of such calls", t.Share)
		}
		if t.Capacity > 0 && t.Capacity < 100 {
			text += fmt.Sprintf(" (it takes %.0f%% of its own)", t.Capacity)
		}
		if t.Recovering {
			text += ", recovering"
		}
		n = n.add("%s", text)
	}
	switch {
	case t.Outlook == nil && t.Connected:
		n.add("its policy is of another module, whose odds are not known")
	case t.Outlook == nil:
	default:
		n.addOutlook(t.Outlook)
	}
}

// maxShown bounds the endpoints of a target in a tree. JSON has all.
const maxShown = 30

func (n *node) addOutlook(o *balancer.Outlook) {
	text := "policy " + o.Policy
	switch {
	case o.Hashed:
		text += ", by the value of " + o.HashKey
	case o.HashKey != "":
		text += fmt.Sprintf(", by weight: the call has no %s", o.HashKey)
	case o.Estimated:
		text += fmt.Sprintf(", odds estimated by %d draws", balancer.OddsDraws)
	}
	if o.Panic {
		text += ", in a panic: so few can be used that the ejected are used, too"
	}
	n = n.add("%s", text)
	if len(o.Endpoints) == 0 {
		n.add("no endpoints")
	}
	for i, one := range o.Endpoints {
		if i == maxShown {
			n.add("%d more: -o json has all", len(o.Endpoints)-maxShown)
			return
		}
		n.add("%s", endpointLine(&one))
	}
}

func endpointLine(e *balancer.EndpointOutlook) string {
	text := fmt.Sprintf("%5.1f%%  %s", 100*e.Odds, e.Address)
	if e.ID != e.Address {
		text += " " + e.ID
	}
	if e.Zone != "" {
		text += ", zone " + e.Zone
	}
	text += fmt.Sprintf(", weight %d, %d in flight", e.Weight, e.InFlight)
	if shown := latency(e.EndpointStats); shown != "-" {
		text += ", " + shown
	}
	if e.Failing >= 0.005 {
		text += fmt.Sprintf(", %s fail", percent(e.Failing))
	}
	if e.State != balancer.InRotation {
		text += ", " + stateOf(e.EndpointStats)
	}
	if e.Due {
		text += ", gets the next call"
	}
	return text
}
