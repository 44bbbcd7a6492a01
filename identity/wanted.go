package identity

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

const (
	otherServices = "*"
	placeholder   = "{service}"
)

// serverIDs are those of [WithServerIDs], by the service of a target.
type serverIDs struct {
	byService map[string]ID
	others    string // has placeholder; "" is none
}

func newServerIDs(ids map[string]string) (serverIDs, error) {
	made := serverIDs{byService: map[string]ID{}, others: ids[otherServices]}
	for service, text := range ids {
		switch {
		case service == otherServices:
			text = strings.Replace(text, placeholder, "x", 1)
		case !segment(service):
			return serverIDs{}, fmt.Errorf("identity: WithServerIDs %.80q: write the name of a service, such as that of consul:///SERVICE, or %s for all others", service, otherServices)
		}
		id, err := ParseSPIFFE(text)
		switch {
		case err != nil:
			return serverIDs{}, fmt.Errorf("identity: WithServerIDs %.80q: %w", service, err)
		case service != otherServices:
			made.byService[service] = id
		case text == made.others:
			return serverIDs{}, fmt.Errorf("identity: WithServerIDs %q: %.200q is one id for all services: write %s in it once", otherServices, text, placeholder)
		case !strings.Contains(made.others[len(scheme)+len(id.TrustDomain):], placeholder):
			return serverIDs{}, fmt.Errorf("identity: WithServerIDs %q: %.200q has another trust domain for each service: write %s in its path", otherServices, made.others, placeholder)
		}
	}
	return made, nil
}

// of returns the id that a user has set for a service. One that is too long is the zero ID, which
// no server has.
func (s serverIDs) of(service string) (ID, bool) {
	id, ok := s.byService[service]
	if ok || s.others == "" {
		return id, ok
	}
	id, _ = ParseSPIFFE(strings.Replace(s.others, placeholder, service, 1))
	return id, true
}

// wanted is the id that the server must have, and the service of the target: what a user has set,
// or else in the datacenter of the target, if that names one, else in one's own.
func (s serverIDs) wanted(datacenter, authority string, own *Snapshot) (ID, string, error) {
	name := authority
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	if !segment(name) || net.ParseIP(name) != nil {
		return ID{}, "", refuse(UnknownService, "", "%.80q names no service: call consul:///SERVICE, or set grpc.WithAuthority to the service", authority)
	}
	if set, ok := s.of(name); ok {
		return set, name, nil
	}
	id := own.id
	if own.anyForm {
		return ID{}, "", refuse(UnknownService, "", "no SPIFFE id is set for the service %q: add it to WithServerIDs", name)
	}
	id.Service = name
	if datacenter != "" {
		id.Datacenter = datacenter
	}
	return id, name, nil
}
