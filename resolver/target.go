package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Scheme is the scheme of the targets that this package resolves.
const Scheme = "consul"

// form is the syntax of a target, for messages.
const form = "consul://[agent-host:port]/service[?tag=...&dc=...&near=...&filter=...&consistency=...&policy=...]"

// Target is a parsed target.
type Target struct {
	Agent       string // host:port of the agent; empty is the directory's own
	Service     string
	Tags        []string // an instance must carry all of them
	Datacenters []string // in the order of failover; empty is the agent's own
	Near        string   // node to sort by round trip, for policies that keep the order
	Filter      string   // expression of Consul's
	Consistency catalog.Consistency
	Policy      string // name of the policy in a service config; empty is none
}

// ParseTarget parses a target. The error names what is wrong, without repeating a secret
// that was put there by mistake.
func ParseTarget(text string) (Target, error) {
	u, err := url.Parse(text)
	if err != nil {
		// url.Error repeats the whole text, user information included.
		return Target{}, fmt.Errorf("target is not a URL: write %s", form)
	}
	return parseTarget(u)
}

// Redact returns target for messages: user information and query values, which may hold
// secrets by mistake, are "***".
func Redact(target string) string {
	scheme, rest, found := strings.Cut(target, "://")
	if !found {
		scheme, rest = "", target
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = "***" + rest[at:]
	}
	if query := strings.Index(rest, "?"); query >= 0 {
		rest = rest[:query] + "?***"
	}
	if !found {
		return rest
	}
	return scheme + "://" + rest
}

func parseTarget(u *url.URL) (Target, error) {
	t := Target{Agent: u.Host, Service: strings.Trim(u.Path, "/")}
	switch {
	case u.Scheme != Scheme:
		return t, fmt.Errorf("target scheme %q: write %s", u.Scheme, form)
	case u.User != nil:
		return t, errors.New("target has user information before its host: a token does not belong in a target: set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE")
	case u.Opaque != "" || t.Service == "" || strings.Contains(t.Service, "/"):
		return t, fmt.Errorf("target names no service, or more than one: write %s", form)
	case catalog.CheckName(t.Service) != nil:
		return t, fmt.Errorf("target service %.80q: %w", t.Service, catalog.CheckName(t.Service))
	case u.Fragment != "":
		return t, fmt.Errorf("target has a fragment: write %s", form)
	}
	if t.Agent != "" {
		host, port, err := net.SplitHostPort(t.Agent)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || portErr != nil || n == 0 {
			return t, fmt.Errorf("target agent %q: write host:port, such as consul://127.0.0.1:8500/%s", t.Agent, t.Service)
		}
	}
	return t, t.parseQuery(u.RawQuery)
}

func (t *Target) parseQuery(raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return errors.New("target has a query that is not key=value&key=value")
	}
	for key, values := range query {
		if slices.Contains(values, "") {
			return fmt.Errorf("target key %q has no value: leave it out or give one", key)
		}
		for _, value := range values {
			if err := catalog.CheckPrintable(value); err != nil && key != "filter" { // which may have lines
				return fmt.Errorf("target key %q: %w", key, err)
			}
		}
		if len(values) > 1 && key != "tag" && key != "dc" {
			return fmt.Errorf("target key %q is given %d times: only tag and dc repeat", key, len(values))
		}
		switch key {
		case "tag":
			t.Tags = values
		case "dc":
			t.Datacenters = values
			if len(slices.Compact(slices.Sorted(slices.Values(values)))) < len(values) {
				return fmt.Errorf("target key \"dc\" names a datacenter twice in %q: write each once, in the order of failover", values)
			}
		case "near":
			t.Near = values[0]
		case "filter":
			t.Filter = values[0]
		case "consistency":
			if t.Consistency, err = catalog.ParseConsistency(values[0]); err != nil {
				return fmt.Errorf("target: %w", err)
			}
		case "policy":
			if t.Policy, err = balancer.PolicyName(values[0]); err != nil {
				return fmt.Errorf("target: %w", err)
			}
		case "token":
			return errors.New("target key \"token\": a token does not belong in a target: set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE")
		default:
			return fmt.Errorf("target key %q is not known: write tag, dc, near, filter, consistency or policy", key)
		}
	}
	return nil
}

// queries returns what to watch, in the order of failover.
func (t Target) queries(warning bool) []catalog.Query {
	datacenters := t.Datacenters
	if len(datacenters) == 0 {
		datacenters = []string{""}
	}
	var queries []catalog.Query
	for _, dc := range datacenters {
		queries = append(queries, catalog.Query{
			Service: t.Service, Tags: t.Tags, Datacenter: dc, Near: t.Near,
			Filter: t.Filter, Warning: warning, Consistency: t.Consistency,
		})
	}
	return queries
}
