package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// metricsAddress is the metadata that tells one process of meshlite from another.
const metricsAddress = "metrics_address"

// rivals are instances of several services that claim one address, by the service
// that is least doubtful. It is one server with several names, or all but one are
// stale, and clients of their services call the wrong server.
func rivals(services []*service) map[string][]Check {
	var entries []consul.Entry
	for _, s := range services {
		entries = append(entries, s.entries...)
	}
	checks := map[string][]Check{}
	for _, same := range shared(entries) {
		same = oneOfEach(same)
		if len(same) > 1 && !oneProcess(same) {
			checks[same[0].Service] = append(checks[same[0].Service], rival(same))
		}
	}
	return checks
}

// oneOfEach leaves the first entry of each service.
func oneOfEach(entries []consul.Entry) []consul.Entry {
	seen := map[string]bool{}
	return slices.DeleteFunc(entries, func(e consul.Entry) bool {
		known := seen[e.Service]
		seen[e.Service] = true
		return known
	})
}

// sameMetrics says whether all tell the same of where their metrics are, if only nothing.
func sameMetrics(entries []consul.Entry) bool {
	return !slices.ContainsFunc(entries, func(e consul.Entry) bool { return e.Metadata[metricsAddress] != entries[0].Metadata[metricsAddress] })
}

func oneProcess(entries []consul.Entry) bool {
	return sameMetrics(entries) && entries[0].Metadata[metricsAddress] != ""
}

func rival(same []consul.Entry) Check {
	var names, commands []string
	for _, e := range same {
		names = append(names, fmt.Sprintf("%s of service %s (node %s)", e.ID, e.Service, orNone(e.Node)))
		commands = append(commands, deregister(e))
	}
	c := Check{Group: Service, Service: same[0].Service, Instance: same[0].ID, Address: same[0].Address, Name: "address", Result: Failed,
		Text: "is at the same address as " + strings.Join(names[1:], ", ") + ", with other metrics: they are not one process",
		Fix:  "remove what is stale: " + strings.Join(commands, " or ")}
	if sameMetrics(same) {
		c.Result = Warning
		c.Text = "is at the same address as " + strings.Join(names[1:], ", ")
		c.Fix = "that is well if one server has both names; if not, " + c.Fix
	}
	return c
}
