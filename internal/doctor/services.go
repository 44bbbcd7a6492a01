package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/nearest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// service is a name, its instances in Consul, and what each of them reports.
type service struct {
	name    string
	entries []consul.Entry
	probes  []probeResult // of the entries
	overTLS bool          // how they are probed
	err     error         // why it could not be read
	refused []string      // parts of its routes that clients refuse
}

// services checks those that are named, or all.
func (r *Report) services(ctx context.Context, directory *consul.Directory, options Options, names []string) {
	services := probeAll(ctx, directory, options, selected(names, options.Services))
	claims := conflicts(services)
	for _, s := range services {
		r.add(s.checks()...)
		r.add(claims[s.name]...)
	}
	for i, name := range options.Services {
		if !slices.Contains(names, name) && !slices.Contains(options.Services[:i], name) {
			r.add(unknown(directory.Name(), name, names))
		}
	}
}

// selected returns the names that are wanted, each once, or all if none are.
func selected(names, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return len(wanted) > 0 && !slices.Contains(wanted, name)
	})
}

func unknown(directory, name string, names []string) Check {
	fix := "is its name right, and is it running?"
	if likely := nearest.Names(name, names); len(likely) > 0 {
		fix = fmt.Sprintf("is it %s?", strings.Join(likely, ", "))
	}
	return Check{Group: Service, Service: name, Name: "known", Result: Failed,
		Text: fmt.Sprintf("%s has no service %q", directory, name), Fix: fix}
}

// probeAll reads services and probes all their instances.
func probeAll(ctx context.Context, directory *consul.Directory, options Options, names []string) []*service {
	services := make([]*service, len(names))
	each(len(names), maxReads, func(i int) {
		s := &service{name: names[i], overTLS: options.Credentials != nil}
		s.entries, s.err = directory.Entries(ctx, catalog.Query{Service: s.name})
		s.probes = make([]probeResult, len(s.entries))
		// Other errors are no fault: without chains, or the right to read this one, discovery is plain.
		var refused *route.RefusedError
		if _, err := route.ForItsProtocol(directory.Chain(ctx, s.name, "")); errors.As(err, &refused) {
			s.refused = refused.Parts
		}
		services[i] = s
	})
	p := prober{options.Credentials, options.Certificate}
	var work []func()
	for _, s := range services {
		for i, e := range s.entries {
			if e.Address != "" {
				work = append(work, func() { s.probes[i] = p.probe(ctx, s.name, e.Metadata[schemeKey], e.Address) })
			}
		}
	}
	each(len(work), maxProbes, func(i int) { work[i]() })
	return services
}

func (s *service) checks() []Check {
	if s.err != nil {
		return []Check{{Group: Service, Service: s.name, Name: "instances", Result: Failed, Text: s.err.Error()}}
	}
	var checks []Check
	for i, e := range s.entries {
		checks = append(checks, instanceChecks(e, s.probes[i], s.overTLS)...)
	}
	checks = append(append(checks, s.panics()...), duplicates(s.entries)...)
	for _, part := range s.refused {
		checks = append(checks, Check{Group: Service, Service: s.name, Name: "routes", Result: Failed,
			Text: "its routes are refused: clients keep their last ones, and calls of those without fail", Fix: part})
	}
	return checks
}

// hasOwnCheck reports whether an instance has a check besides those of its node.
func hasOwnCheck(e consul.Entry) bool {
	return slices.ContainsFunc(e.Checks, func(c consul.Check) bool { return !c.Node && c.Name != serviceMaintenance })
}

// instanceChecks compares what Consul reports of an instance with its own report.
func instanceChecks(e consul.Entry, a probeResult, overTLS bool) []Check {
	c := Check{Group: Service, Service: e.Service, Instance: e.ID, Address: e.Address, Name: "health"}
	if e.Address == "" {
		c.Name, c.Result = "address", Failed
		c.Text = "has no address that can be called: its port is 0, or neither it nor its node has a host"
		c.Fix = "register it with the port it listens on, or remove it: " + deregister(e)
		return []Check{c}
	}
	c.Result, c.Fix = judge(e, a, overTLS)
	c.Text = a.text + ", Consul says " + consulSays(e)
	if m := maintenance(e); m != nil {
		c.Result, c.Fix = Warning, "when it is over: "+endMaintenance(e, m.Node)
		c.Text = strings.TrimSuffix(a.text+", in maintenance: "+m.Output, ": ")
	}
	if hasOwnCheck(e) {
		return []Check{c}
	}
	unchecked := c
	unchecked.Name, unchecked.Result = "checks", Warning
	unchecked.Text = "has no check in Consul: it is never taken out of rotation"
	unchecked.Fix = "register it with a gRPC check, as meshlite.NewServer does"
	return []Check{c, unchecked}
}

// judge returns the result of that comparison, and the fix.
func judge(e consul.Entry, a probeResult, overTLS bool) (result, fix string) {
	switch {
	case a.state == serving && e.Status != catalog.Critical && e.Weight == 0:
		return Warning, fmt.Sprintf("clients never call it: register it with a weight above 0 for the state %v", e.Status)
	case a.state == serving && e.Status == catalog.Passing:
		return Passed, ""
	case a.state == serving && e.Status == catalog.Warning:
		return Warning, "clients do not call it, unless they are built WithWarningInstances"
	case a.state == serving:
		return Failed, checkFix(e, overTLS)
	case a.state == unreported && e.Status != catalog.Critical:
		return Warning, a.fix
	case a.state == unreachable:
		return Failed, a.fix + " If it is gone for good: " + deregister(e)
	case a.state == notServing && e.Status == catalog.Passing && isHTTP(e.Metadata[schemeKey]):
		return Failed, "clients still call it: make its check in Consul call /readyz at its own address, as that of meshlite gateway does"
	case a.state == notServing && e.Status == catalog.Passing:
		return Failed, "clients still call it: make its check in Consul call grpc.health.v1 at its own address, as that of meshlite.NewServer does"
	default:
		return Failed, a.fix
	}
}

// consulSays returns Consul's status, with the output of checks that are not passing.
func consulSays(e consul.Entry) string {
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

// The names of the checks that are Consul's maintenance mode.
const (
	serviceMaintenance = "Service Maintenance Mode"
	nodeMaintenance    = "Node Maintenance Mode"
)

// maintenance returns the maintenance mode of the instance or its node, or nil.
func maintenance(e consul.Entry) *consul.Check {
	for i, c := range e.Checks {
		if c.Node && c.Name == nodeMaintenance || !c.Node && c.Name == serviceMaintenance {
			return &e.Checks[i]
		}
	}
	return nil
}

// endMaintenance returns the command that ends it.
func endMaintenance(e consul.Entry, node bool) string {
	command := "`consul maint -disable`"
	if !node {
		command = "`consul maint -disable -service=" + quoted(e.ID) + "`"
	}
	return command + onNode(e)
}

// panics warns if so few instances are healthy that clients with default options call the
// unhealthy ones as well.
func (s *service) panics() []Check {
	healthy, unhealthy := 0, 0
	for i, e := range s.entries {
		switch {
		case e.Address == "" || e.Weight == 0 && e.Status != catalog.Critical || maintenance(s.entries[i]) != nil:
		case e.Status == catalog.Passing:
			healthy++
		default:
			unhealthy++
		}
	}
	if !resolver.BelowPanicThreshold(healthy, unhealthy) {
		return nil
	}
	return []Check{{
		Group: Service, Service: s.name, Name: "panic", Result: Warning,
		Text: fmt.Sprintf("%d of %d instances are healthy by Consul: clients call the others as well, as far as they answer", healthy, healthy+unhealthy),
		Fix:  "are the instances at fault, or their checks? What each instance reports stands above",
	}}
}

// checkFix returns the fix for an instance that serves while its check in Consul fails: for its
// certificate if that is the reason, else for the network from the agent. Consul may
// publish the output of a check minutes after its state.
func checkFix(e consul.Entry, overTLS bool) string {
	for _, c := range e.Checks {
		if c.Status == catalog.Passing {
			continue
		}
		if fix := tlsFix(c.Output, overTLS); fix != "" {
			return "clients do not call it while enough others are healthy: " + fix
		}
	}
	if overTLS {
		return fmt.Sprintf("clients do not call it while enough others are healthy: can the agent on node %s reach the address of the check, and verify its certificate by the name of the check? See its log. If the server demands a client's certificate: %s", orNone(e.Node), certificateFix)
	}
	return fmt.Sprintf("clients do not call it while enough others are healthy: can the agent on node %s reach the address of the check?", orNone(e.Node))
}

// certificateFix is for servers that demand what agents do not present, or not the right one.
const certificateFix = "an agent presents its own only with enable_agent_tls_for_checks, and the server must trust its authority, which servers with meshlite.ConsulIdentity never do: " +
	"serve checks separately by meshlite.WithHealthListener, or set the TTL of meshlite.WithRegistration"

// tlsFix goes by the text of the agent's gRPC and crypto/tls, which have no codes for it.
func tlsFix(output string, overTLS bool) string {
	has := func(part string) bool { return strings.Contains(output, part) }
	switch {
	case wrongName(output):
		return fmt.Sprintf("its check verifies the name %s, which its certificate does not have: issue one with that name, or set a name that it has, by CheckServerName of meshlite.WithRegistration",
			cmp.Or(wantedName(output), "of its address"))
	case has("signed by unknown authority"):
		return "its check does not trust the authority of its certificate: add it to the roots of the agent's machine, or to ca_file of an agent with enable_agent_tls_for_checks, or let the check accept any certificate, by CheckSkipVerify of meshlite.WithRegistration"
	case has("certificate has expired"):
		return "its certificate is not valid now: renew it, and look at the agent's clock"
	case has("certificate required"), has("bad certificate"):
		return "it requires a client certificate of an authority that it trusts: " + certificateFix
	case overTLS && has("error reading server preface"):
		return "its check speaks plaintext, and it demands TLS: serve checks separately by meshlite.WithHealthListener, or set the TTL of meshlite.WithRegistration"
	case has("first record does not look like a TLS handshake"):
		return "its check speaks TLS, and it speaks plaintext: register it with a check without TLS"
	default:
		return ""
	}
}

// wrongName reports whether message is crypto/x509's for a name that a certificate does not have.
func wrongName(message string) bool {
	return strings.Contains(message, "x509: certificate is valid for") || strings.Contains(message, "x509: certificate is not valid for any names") ||
		strings.Contains(message, "x509: cannot validate certificate for")
}

// wantedName returns the name that crypto/x509 has verified.
func wantedName(message string) string {
	for _, phrase := range []string{"but wanted to match ", "cannot validate certificate for ", ", not "} {
		if at := strings.LastIndex(message, phrase); at >= 0 {
			name, _, _ := strings.Cut(message[at+len(phrase):], " ")
			return strings.TrimRight(name, `",.;)`)
		}
	}
	return ""
}
