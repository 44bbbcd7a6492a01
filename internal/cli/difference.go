package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// difference is what turned one list into another, in the order of the lists.
func difference(before, after []endpoint) []event {
	old := byKey(before)
	now := byKey(after)
	var events []event
	for i, e := range before {
		if _, stays := now[key(e)]; !stays {
			events = append(events, event{Event: removed, Instance: &before[i]})
		}
	}
	for i, e := range after {
		was, known := old[key(e)]
		switch {
		case !known:
			events = append(events, event{Event: added, Instance: &after[i]})
		case changes(was, e) != "":
			events = append(events, event{Event: changed, Instance: &after[i], before: was})
		}
	}
	return events
}

func byKey(list []endpoint) map[[3]string]endpoint {
	known := make(map[[3]string]endpoint, len(list))
	for _, e := range list {
		known[key(e)] = e
	}
	return known
}

// key is what makes an instance unique.
func key(e endpoint) [3]string { return [3]string{e.Datacenter, e.Node, e.ID} }

// who names an instance for people.
func who(e endpoint) string { return cell(e.Address) + "  " + cell(e.ID) }

// what lists the other columns of the table.
func what(e endpoint) string {
	text := fmt.Sprintf("%s, weight %d, node %s", oneLine(state(e)), e.Weight, cell(e.Node))
	if e.Zone != "" {
		text += ", zone " + oneLine(e.Zone)
	}
	if len(e.Tags) > 0 {
		text += ", tags " + tags(e)
	}
	return text
}

func tags(e endpoint) string { return cell(strings.Join(e.Tags, ",")) }

// changes lists the differences, "" if there are none.
func changes(was, is endpoint) string {
	var all []string
	differ := func(what, from, to string) {
		if from != to {
			all = append(all, fmt.Sprintf("%s %s -> %s", what, from, to))
		}
	}
	if state(was) != state(is) { // what a check says is no change
		differ("status", oneLine(state(was)), oneLine(state(is))+trouble(is))
	}
	differ("address", cell(was.Address), cell(is.Address))
	differ("weight", fmt.Sprint(was.Weight), fmt.Sprint(is.Weight))
	differ("zone", cell(was.Zone), cell(is.Zone))
	differ("region", cell(was.Region), cell(is.Region))
	differ("tags", tags(was), tags(is))
	if !maps.Equal(was.Metadata, is.Metadata) {
		all = append(all, "metadata")
	}
	return strings.Join(all, ", ")
}

// trouble is the output of the checks that are not passing.
func trouble(e endpoint) string {
	bad := slices.IndexFunc(e.Checks, func(c consul.Check) bool { return c.Status != catalog.Passing })
	if bad < 0 || e.Checks[bad].Output == "" {
		return ""
	}
	return " (" + oneLine(e.Checks[bad].Output) + ")"
}
