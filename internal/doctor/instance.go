package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// nodeCheck is the name of the check of its own that Consul has for each node.
const nodeCheck = "Serf Health Status"

// checked says whether an instance has a check but that of its node.
func checked(e consul.Entry) bool {
	return slices.ContainsFunc(e.Checks, func(c consul.Check) bool { return c.Name != nodeCheck })
}

// examined compares what Consul says of an instance with what it says of itself.
func examined(e consul.Entry, a answer) []Check {
	c := Check{Group: Service, Service: e.Service, Instance: e.ID, Address: e.Address, Name: "health"}
	if e.Address == "" {
		c.Name, c.Result = "address", Failed
		c.Text = "has no address that can be called: its port is 0, or neither it nor its node has a host"
		c.Fix = "register it with the port it listens on, or remove it: " + deregister(e)
		return []Check{c}
	}
	c.Result, c.Fix = judge(e, a)
	c.Text = a.text + ", Consul says " + opinion(e)
	if maintained(e) {
		c.Result, c.Fix = Warning, "when it is over: `consul maint -disable -service="+quoted(e.ID)+"`"
		c.Text = a.text + ", in maintenance"
	}
	if checked(e) {
		return []Check{c}
	}
	unchecked := c
	unchecked.Name, unchecked.Result = "checks", Warning
	unchecked.Text = "has no check in Consul: it never leaves rotation by itself"
	unchecked.Fix = "register it with a gRPC check, as meshlite.NewServer does"
	return []Check{c, unchecked}
}

// judge is the result of both opinions, and what to do.
func judge(e consul.Entry, a answer) (result, fix string) {
	switch {
	case a.state == serving && e.Status == catalog.Passing:
		return Passed, ""
	case a.state == serving && e.Status == catalog.Warning:
		return Warning, "clients leave it out, unless they are built WithWarning"
	case a.state == serving:
		return Failed, fmt.Sprintf("clients leave it out: can the agent on node %s reach what the check asks?", orNone(e.Node))
	case a.state == unclear && e.Status != catalog.Critical:
		return Warning, a.fix
	case a.state == gone:
		return Failed, a.fix + " If it is gone for good: " + deregister(e)
	case a.state == sick && e.Status == catalog.Passing:
		return Failed, "clients still call it: let its check in Consul ask grpc.health.v1 at its own address, as that of meshlite.NewServer does"
	default:
		return Failed, a.fix
	}
}

// opinion is Consul's status, with what the checks said that are not passing.
func opinion(e consul.Entry) string {
	text := e.Status.String()
	var outputs []string
	for _, c := range e.Checks {
		if c.Status != catalog.Passing {
			outputs = append(outputs, strings.TrimSuffix(c.Name+": "+c.Output, ": "))
		}
	}
	if len(outputs) > 0 {
		text += " (" + strings.Join(outputs, "; ") + ")"
	}
	return text
}

// maintained says whether an operator has taken the instance or its node out.
func maintained(e consul.Entry) bool {
	return slices.ContainsFunc(e.Checks, func(c consul.Check) bool {
		return c.Name == "Service Maintenance Mode" || c.Name == "Node Maintenance Mode"
	})
}
