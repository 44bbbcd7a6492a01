package doctor

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// maxClockOffset is above the error of the measurement: an answer takes up to 5 s, is assumed
// to be dated half way, and its date is cut to the second. With NTP a clock is within a
// fraction of a second.
const maxClockOffset = 5 * time.Second

// consul checks the agent and its clock. It returns the names of the services, if they can
// be listed.
func (r *Report) consul(ctx context.Context, directory *consul.Directory) (names []string, listed bool) {
	agent, err := directory.Agent(ctx)
	if !agent.Reached {
		r.add(Check{Group: Consul, Name: "reachable", Result: Failed, Text: err.Error()})
		return nil, false
	}
	start := time.Now()
	badToken := directory.CheckToken(ctx)
	took := time.Since(start)
	names, hidden := directory.ServiceNames(ctx, "") // some may be visible without a token
	r.add(reachable(directory.Name(), agent, took), leader(agent), token(agent, badToken, len(names)))
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

// datacenter reports where the agent is, if that can be read.
func datacenter(agent consul.Agent, err error) Check {
	switch {
	case err == nil:
		return Check{Group: Consul, Name: "datacenter", Result: Passed, Text: fmt.Sprintf("datacenter %s, node %s (%s)", agent.Datacenter, agent.Node, agent.NodeAddress)}
	case agent.ACLs:
		return Check{Group: Consul, Name: "datacenter", Result: Warning, Text: "the token may not read the node and its datacenter",
			Fix: "give it agent:read, which servers need to find out their address"}
	default:
		return Check{Group: Consul, Name: "datacenter", Result: Failed, Text: err.Error()}
	}
}

// registered checks the list of services, if it can be read.
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
		return Check{Group: Consul, Name: "leader", Result: Failed, Text: "there is no leader: nothing can be registered, and answers become stale",
			Fix: "start more servers until most of them are up: see `consul operator raft list-peers -stale`"}
	}
	return Check{Group: Consul, Name: "leader", Result: Passed, Text: "the leader is " + agent.Leader}
}

// token only warns where everybody may read some services.
func token(agent consul.Agent, bad error, services int) Check {
	switch {
	case bad != nil && services > 0:
		return Check{Group: Consul, Name: "token", Result: Warning, Text: bad.Error(), Fix: "some services may be visible only with a token"}
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
	case off > maxClockOffset && ahead > 0:
		return wrongClock(fmt.Sprintf("our clock is %v behind that of the agent", off))
	case off > maxClockOffset:
		return wrongClock(fmt.Sprintf("our clock is %v ahead of that of the agent", off))
	default:
		return Check{Group: Clock, Name: "offset", Result: Passed, Text: fmt.Sprintf("our clock is within %v of that of the agent", max(off+time.Second, time.Second))}
	}
}

func wrongClock(text string) Check {
	return Check{Group: Clock, Name: "offset", Result: Failed, Text: text,
		Fix: "certificates may seem expired or not yet valid, and logs of two machines do not match: run an NTP client, such as chronyd, on both"}
}
