package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// twins are instances of one service that claim one address. Clients call one of
// them only.
func twins(entries []consul.Entry) (checks []Check) {
	for _, same := range shared(entries) {
		checks = append(checks, twin(same))
	}
	return checks
}

// shared are the entries of each address that several claim, the least doubtful
// first.
func shared(entries []consul.Entry) (groups [][]consul.Entry) {
	byAddress := map[string][]consul.Entry{}
	var order []string
	for _, e := range entries {
		if e.Address == "" {
			continue
		}
		if byAddress[e.Address] == nil {
			order = append(order, e.Address)
		}
		byAddress[e.Address] = append(byAddress[e.Address], e)
	}
	for _, address := range order {
		if same := byAddress[address]; len(same) > 1 {
			slices.SortStableFunc(same, func(a, b consul.Entry) int { return cmp.Compare(doubt(a), doubt(b)) })
			groups = append(groups, same)
		}
	}
	return groups
}

func twin(same []consul.Entry) Check {
	var names, commands []string
	for _, e := range same[1:] {
		names = append(names, fmt.Sprintf("%s (node %s)", e.ID, orNone(e.Node)))
		commands = append(commands, deregister(e))
	}
	return Check{Group: Service, Service: same[0].Service, Instance: same[0].ID, Address: same[0].Address, Name: "address", Result: Failed,
		Text: fmt.Sprintf("is at the same address as %s: clients call one of them only", strings.Join(names, ", ")),
		Fix:  "remove what is stale, likely: " + strings.Join(commands, ", ")}
}

// doubt is higher for what is more likely stale: with no check, so that it passes for
// ever, not passing, with an id that does not follow from the address.
func doubt(e consul.Entry) int {
	d := 0
	if !checked(e) {
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

// deregister is the command that removes an instance.
func deregister(e consul.Entry) string {
	command := "`consul services deregister -id=" + quoted(e.ID) + "`"
	return command + onNode(e)
}

// onNode says where a command about an instance must run.
func onNode(e consul.Entry) string {
	if e.Node == "" {
		return ""
	}
	return " on node " + e.Node
}

// quoted is an id for a shell.
func quoted(id string) string {
	plain := func(c rune) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune("-_.:/", c)
	}
	if strings.IndexFunc(id, func(c rune) bool { return !plain(c) }) < 0 {
		return id
	}
	return "'" + strings.ReplaceAll(id, "'", `'\''`) + "'"
}
