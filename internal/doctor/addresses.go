package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// duplicates checks for instances of one service at one address. Clients call only one
// of them.
func duplicates(entries []consul.Entry) (checks []Check) {
	for _, same := range byAddress(entries) {
		checks = append(checks, duplicate(same))
	}
	return checks
}

// byAddress returns the entries of each address that has several, the least likely stale
// first.
func byAddress(entries []consul.Entry) (groups [][]consul.Entry) {
	entriesAt := map[string][]consul.Entry{}
	var order []string
	for _, e := range entries {
		if e.Address == "" {
			continue
		}
		if entriesAt[e.Address] == nil {
			order = append(order, e.Address)
		}
		entriesAt[e.Address] = append(entriesAt[e.Address], e)
	}
	for _, address := range order {
		if same := entriesAt[address]; len(same) > 1 {
			slices.SortStableFunc(same, func(a, b consul.Entry) int { return cmp.Compare(staleness(a), staleness(b)) })
			groups = append(groups, same)
		}
	}
	return groups
}

func duplicate(same []consul.Entry) Check {
	var names, commands []string
	for _, e := range same[1:] {
		names = append(names, fmt.Sprintf("%s (node %s)", e.ID, orNone(e.Node)))
		commands = append(commands, deregister(e))
	}
	return Check{Group: Service, Service: same[0].Service, Instance: same[0].ID, Address: same[0].Address, Name: "address", Result: Failed,
		Text: fmt.Sprintf("is at the same address as %s: clients call only one of them", strings.Join(names, ", ")),
		Fix:  "remove what is stale, likely: " + strings.Join(commands, ", ")}
}

// staleness is higher for what is more likely stale: without a check, so that it passes for
// ever; not passing; with an id that does not follow from the address.
func staleness(e consul.Entry) int {
	d := 0
	if !hasOwnCheck(e) {
		d += 4
	}
	if e.Status != catalog.Passing {
		d += 2
	}
	if !strings.HasSuffix(e.ID, strings.TrimPrefix(catalog.InstanceID("", e.Address), "-")) {
		d++
	}
	return d
}

// deregister returns the command that removes an instance.
func deregister(e consul.Entry) string {
	command := "`consul services deregister -id=" + quoted(e.ID) + "`"
	return command + onNode(e)
}

// onNode returns where a command for an instance must run.
func onNode(e consul.Entry) string {
	if e.Node == "" {
		return ""
	}
	return " on node " + e.Node
}

// quoted returns an id for a shell.
func quoted(id string) string {
	plain := func(c rune) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune("-_.:/", c)
	}
	if strings.IndexFunc(id, func(c rune) bool { return !plain(c) }) < 0 {
		return id
	}
	return "'" + strings.ReplaceAll(id, "'", `'\''`) + "'"
}

// metricsAddress is the metadata that differs between the processes of meshlite.
const metricsAddress = "metrics_address"

// conflicts checks for instances of several services at one address, by the service that is
// least likely stale. Either one server has several names, or all but one are stale and clients
// of their services call the wrong server.
func conflicts(services []*service) map[string][]Check {
	var entries []consul.Entry
	for _, s := range services {
		entries = append(entries, s.entries...)
	}
	checks := map[string][]Check{}
	for _, same := range byAddress(entries) {
		same = oneOfEach(same)
		if len(same) > 1 && !oneProcess(same) {
			checks[same[0].Service] = append(checks[same[0].Service], conflict(same))
		}
	}
	return checks
}

// oneOfEach keeps the first entry of each service.
func oneOfEach(entries []consul.Entry) []consul.Entry {
	seen := map[string]bool{}
	return slices.DeleteFunc(entries, func(e consul.Entry) bool {
		repeated := seen[e.Service]
		seen[e.Service] = true
		return repeated
	})
}

// sameMetrics reports whether all have the same metrics address, or none has one.
func sameMetrics(entries []consul.Entry) bool {
	return !slices.ContainsFunc(entries, func(e consul.Entry) bool { return e.Metadata[metricsAddress] != entries[0].Metadata[metricsAddress] })
}

func oneProcess(entries []consul.Entry) bool {
	return sameMetrics(entries) && entries[0].Metadata[metricsAddress] != ""
}

func conflict(same []consul.Entry) Check {
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
		c.Fix = "that is right if one server has both names; if not, " + c.Fix
	}
	return c
}
