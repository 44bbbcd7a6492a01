package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// checked says whether an instance has a check but those of its node.
func checked(e consul.Entry) bool {
	return slices.ContainsFunc(e.Checks, func(c consul.Check) bool { return !c.Node && c.Name != serviceMaintenance })
}

// examined compares what Consul says of an instance with what it says of itself.
func examined(e consul.Entry, a answer, overTLS bool) []Check {
	c := Check{Group: Service, Service: e.Service, Instance: e.ID, Address: e.Address, Name: "health"}
	if e.Address == "" {
		c.Name, c.Result = "address", Failed
		c.Text = "has no address that can be called: its port is 0, or neither it nor its node has a host"
		c.Fix = "register it with the port it listens on, or remove it: " + deregister(e)
		return []Check{c}
	}
	c.Result, c.Fix = judge(e, a, overTLS)
	c.Text = a.text + ", Consul says " + opinion(e)
	if m := maintenance(e); m != nil {
		c.Result, c.Fix = Warning, "when it is over: "+endMaintenance(e, m.Node)
		c.Text = strings.TrimSuffix(a.text+", in maintenance: "+m.Output, ": ")
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
func judge(e consul.Entry, a answer, overTLS bool) (result, fix string) {
	switch {
	case a.state == serving && e.Status != catalog.Critical && e.Weight == 0:
		return Warning, fmt.Sprintf("clients never call it: register it with a weight above 0 for the state %v", e.Status)
	case a.state == serving && e.Status == catalog.Passing:
		return Passed, ""
	case a.state == serving && e.Status == catalog.Warning:
		return Warning, "clients leave it out, unless they are built with resolver.WithWarningInstances"
	case a.state == serving:
		return Failed, checkFix(e, overTLS)
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
	if e.Weight == 0 && e.Status != catalog.Critical {
		text += " with weight 0"
	}
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

// The names of the checks by which Consul keeps a maintenance.
const (
	serviceMaintenance = "Service Maintenance Mode"
	nodeMaintenance    = "Node Maintenance Mode"
)

// maintenance is the check by which an operator has taken the node or the instance
// out, or nil.
func maintenance(e consul.Entry) *consul.Check {
	for i, c := range e.Checks {
		if c.Node && c.Name == nodeMaintenance || !c.Node && c.Name == serviceMaintenance {
			return &e.Checks[i]
		}
	}
	return nil
}

// endMaintenance is the command for it.
func endMaintenance(e consul.Entry, node bool) string {
	command := "`consul maint -disable`"
	if !node {
		command = "`consul maint -disable -service=" + quoted(e.ID) + "`"
	}
	return command + onNode(e)
}
