package doctor

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// maxClock is beyond what the measure itself can err by: an answer that takes the
// longest time, 5 s, is dated half way, and the date is cut to the second. A machine
// that keeps time by NTP is within a fraction of a second.
const maxClock = 5 * time.Second

// consul looks at the agent and at its clock. It gives the names of the services, if
// they can be listed.
func (r *Report) consul(ctx context.Context, directory *consul.Directory) (names []string, listed bool) {
	agent, err := directory.Agent(ctx)
	if !agent.Reached {
		r.add(Check{Group: Consul, Name: "reachable", Result: Failed, Text: err.Error()})
		return nil, false
	}
	asked := time.Now()
	badToken := directory.CheckToken(ctx)
	answered := time.Since(asked)
	names, hidden := directory.ServiceNames(ctx, "") // without a token there may be some that everybody sees
	r.add(reachable(directory.Name(), agent, answered), leader(agent), token(agent, badToken, len(names)))
	if err == nil || badToken == nil {
		r.add(datacenter(agent, err))
	}
	listed = badToken == nil || len(names) > 0
	if listed {
		r.add(registered(names, hidden))
	}
	r.add(clock(agent.ClockOffset))
	return names, listed && hidden == nil
}

// datacenter tells where the agent is, unless that cannot be read.
func datacenter(agent consul.Agent, err error) Check {
	switch {
	case err == nil:
		return Check{Group: Consul, Name: "datacenter", Result: Passed, Text: fmt.Sprintf("datacenter %s, node %s (%s)", agent.Datacenter, agent.Node, agent.NodeAddress)}
	case agent.ACLs:
		return Check{Group: Consul, Name: "datacenter", Result: Warning, Text: "the token may not ask for the node and its datacenter",
			Fix: "give it agent:read, which servers need to find out their address"}
	default:
		return Check{Group: Consul, Name: "datacenter", Result: Failed, Text: err.Error()}
	}
}

// registered looks at the list of services, unless it cannot be read.
func registered(names []string, err error) Check {
	switch {
	case err != nil:
		return Check{Group: Consul, Name: "services", Result: Failed, Text: err.Error()}
	case len(names) == 0:
		return Check{Group: Consul, Name: "services", Result: Warning, Text: "no service is registered",
			Fix: "start one; if there should be some: may the token read them (service:read and node:read)?"}
	default:
		return Check{Group: Consul, Name: "services", Result: Passed, Text: "services: " + strconv.Itoa(len(names))}
	}
}

func reachable(name string, agent consul.Agent, took time.Duration) Check {
	text := name
	switch {
	case agent.Simulated:
		text += ", a stand-in for Consul"
	case agent.Version != "":
		text += ", version " + agent.Version
	}
	return Check{Group: Consul, Name: "reachable", Result: Passed, Text: fmt.Sprintf("%s, answers in %s", text, took.Round(10*time.Microsecond))}
}

func leader(agent consul.Agent) Check {
	if agent.Leader == "" {
		return Check{Group: Consul, Name: "leader", Result: Failed, Text: "there is no leader: nothing can be registered, and answers grow old",
			Fix: "start more servers until most of them are up: see `consul operator raft list-peers -stale`"}
	}
	return Check{Group: Consul, Name: "leader", Result: Passed, Text: "the leader is " + agent.Leader}
}

// token is not wrong where everybody may read some services.
func token(agent consul.Agent, bad error, services int) Check {
	switch {
	case bad != nil && services > 0:
		return Check{Group: Consul, Name: "token", Result: Warning, Text: bad.Error(), Fix: "there may be services that only a token shows"}
	case bad != nil:
		return Check{Group: Consul, Name: "token", Result: Failed, Text: bad.Error()}
	case agent.ACLs:
		return Check{Group: Consul, Name: "token", Result: Passed, Text: "the token is good"}
	default:
		return Check{Group: Consul, Name: "token", Result: Passed, Text: "no token is needed: ACLs are off"}
	}
}

func clock(ahead time.Duration) Check {
	switch off := ahead.Abs(); {
	case off > maxClock && ahead > 0:
		return wrongClock(fmt.Sprintf("our clock is %v behind that of the agent", off))
	case off > maxClock:
		return wrongClock(fmt.Sprintf("our clock is %v ahead of that of the agent", off))
	default:
		return Check{Group: Clock, Name: "offset", Result: Passed, Text: fmt.Sprintf("our clock is within %v of that of the agent", max(off+time.Second, time.Second))}
	}
}

func wrongClock(text string) Check {
	return Check{Group: Clock, Name: "offset", Result: Failed, Text: text,
		Fix: "certificates may seem to be of another time, and logs of two machines do not match: run an NTP client, such as chronyd, on both"}
}
