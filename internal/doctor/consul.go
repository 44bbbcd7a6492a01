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
	// Access control is told only by an agent that has answered.
	if err != nil && !agent.ACLs {
		r.add(Check{Group: Consul, Name: "reachable", Result: Failed, Text: err.Error()})
		return nil, false
	}
	asked := time.Now()
	badToken := directory.CheckToken(ctx)
	r.add(reachable(directory.Name(), agent, time.Since(asked)), leader(agent), token(agent, badToken))
	if err == nil {
		r.add(Check{Group: Consul, Name: "datacenter", Result: Passed, Text: fmt.Sprintf("datacenter %s, node %s (%s)", agent.Datacenter, agent.Node, agent.NodeAddress)})
	} else if badToken == nil {
		r.add(Check{Group: Consul, Name: "datacenter", Result: Warning, Text: "the token may not ask for the node and its datacenter",
			Fix: "give it agent:read, which servers need to find out their address"})
	}
	if badToken == nil {
		names, listed = r.list(ctx, directory)
	}
	r.add(clock(agent.Clock))
	return names, listed
}

// list looks at what is registered.
func (r *Report) list(ctx context.Context, directory *consul.Directory) (names []string, listed bool) {
	services, err := directory.Services(ctx, "")
	if err != nil {
		r.add(Check{Group: Consul, Name: "services", Result: Failed, Text: err.Error()})
		return nil, false
	}
	for _, s := range services {
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		r.add(Check{Group: Consul, Name: "services", Result: Warning, Text: "no service is registered",
			Fix: "start one; if there should be some: may the token read them (service:read and node:read)?"})
		return nil, true
	}
	r.add(Check{Group: Consul, Name: "services", Result: Passed, Text: "services: " + strconv.Itoa(len(names))})
	return names, true
}

func reachable(name string, agent consul.Agent, took time.Duration) Check {
	text := name
	if agent.Version != "" {
		text += ", version " + agent.Version
	}
	return Check{Group: Consul, Name: "reachable", Result: Passed, Text: fmt.Sprintf("%s, answers in %s", text, took.Round(10*time.Microsecond))}
}

func leader(agent consul.Agent) Check {
	if agent.Leader == "" {
		return Check{Group: Consul, Name: "leader", Result: Failed, Text: "there is no leader: nothing can be registered, and answers grow old",
			Fix: "start more servers until most of them are up: see `consul operator raft list-peers`"}
	}
	return Check{Group: Consul, Name: "leader", Result: Passed, Text: "the leader is " + agent.Leader}
}

func token(agent consul.Agent, bad error) Check {
	switch {
	case bad != nil:
		return Check{Group: Consul, Name: "token", Result: Failed, Text: bad.Error()}
	case agent.ACLs:
		return Check{Group: Consul, Name: "token", Result: Passed, Text: "the token is good"}
	default:
		return Check{Group: Consul, Name: "token", Result: Passed, Text: "no token is needed: access control is off"}
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
