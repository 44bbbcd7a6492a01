package gatewaycmd

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// service is a gRPC service of the mesh that is let out.
type service struct {
	name  string   // in Consul
	names []string // of services or methods in its contract; empty is all but gRPC's own
}

// parseServices reads arguments such as "catalog" and "catalog=pkg.Service,pkg.Other/Method".
func parseServices(args []string) ([]service, error) {
	var list []service
	for _, arg := range args {
		name, names, some := strings.Cut(arg, "=")
		if err := catalog.CheckName(name); err != nil || name == "" || strings.ContainsAny(name, "/,") {
			return nil, cli.Usagef("service %q: write the name of a service in Consul, and perhaps what it lets out: catalog=pkg.Service,pkg.Other/Method", arg)
		}
		s := service{name: name}
		if some {
			for _, name := range strings.Split(names, ",") {
				if !isServiceOrMethod(name) {
					return nil, cli.Usagef("service %q: %q is no name in a contract: write pkg.Service or pkg.Service/Method, and leave out = for all of them", arg, name)
				}
				s.names = append(s.names, name)
			}
		}
		if slices.ContainsFunc(list, func(other service) bool { return other.name == name }) {
			return nil, cli.Usagef("service %q is given twice: write all that it lets out in one: %s=pkg.Service,pkg.Other", name, name)
		}
		list = append(list, s)
	}
	return list, nil
}

func isServiceOrMethod(name string) bool {
	service, method, some := strings.Cut(name, "/")
	return protoreflect.FullName(service).IsValid() && (!some || protoreflect.Name(method).IsValid())
}

// offer is what the gateway lets out.
func (s service) offer() []string {
	if len(s.names) == 0 {
		return []string{"*"}
	}
	return s.names
}

// site is a plain HTTP service.
type site struct {
	name, prefix string
	urls         []string // empty is those of the service in Consul
}

// parseSites reads values such as "web=/web/" and "web=/web/,http://127.0.0.1:8000".
func parseSites(values []string) ([]site, error) {
	var list []site
	for _, value := range values {
		name, rest, _ := strings.Cut(value, "=")
		parts := strings.Split(rest, ",")
		s := site{name: name, prefix: parts[0], urls: parts[1:]}
		switch err := catalog.CheckName(name); {
		case err != nil || name == "":
			return nil, cli.Usagef("--http %q: write NAME=/PREFIX/, such as web=/web/, and URLs behind it if NAME is not in Consul", value)
		case !strings.HasPrefix(s.prefix, "/") || !strings.HasSuffix(s.prefix, "/") || strings.Contains(s.prefix, "//") || strings.ContainsAny(s.prefix, "?#%{} "):
			return nil, cli.Usagef("--http %q: the prefix %q is no path that begins and ends with a slash: write %s=/%s/", value, s.prefix, name, name)
		}
		for _, text := range s.urls {
			if err := checkURL(text); err != "" {
				return nil, cli.Usagef("--http %q: %q %s: write http://host:port or https://host:port, such as http://127.0.0.1:8000", value, text, err)
			}
		}
		for _, other := range list {
			if other.name == name || other.prefix == s.prefix {
				return nil, cli.Usagef("--http %q: %s=%s has the name or the prefix already: give each its own", value, other.name, other.prefix)
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// checkURL returns what is wrong with the URL of an instance, "" for nothing.
func checkURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "is no URL of an instance"
	case u.User != nil:
		return "has user information"
	case u.RawQuery != "" || u.Fragment != "":
		return "has a query or a fragment"
	default:
		return ""
	}
}

// parsePrefixes reads networks, and single addresses as networks.
func parsePrefixes(values []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, value := range values {
		prefix, err := netip.ParsePrefix(value)
		if address, addressErr := netip.ParseAddr(value); err != nil && addressErr == nil && address.Zone() == "" {
			prefix, err = netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), nil
		}
		if err != nil || prefix.Addr().Is4In6() {
			return nil, cli.Usagef("--trusted-proxies %q: write a network or an address, such as 10.0.0.0/8 or 127.0.0.1", value)
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}

// units are short forms of periods.
var units = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// parseLimits reads values such as "address=100/1m" and "header X-Api-Key=5/s@/v1/orders".
func parseLimits(values []string) ([]edge.Limit, error) {
	var list []edge.Limit
	for _, value := range values {
		l, ok := parseLimit(value)
		if !ok {
			return nil, cli.Usagef("--limit %q: write KEY=COUNT/PERIOD, KEY being address, subject or header NAME, and perhaps @PATH: address=100/1m, header X-Api-Key=5/s@/v1/", value)
		}
		if slices.ContainsFunc(list, func(other edge.Limit) bool { return other.Name == l.Name }) {
			return nil, cli.Usagef("--limit %q is given twice: leave one out", value)
		}
		list = append(list, l)
	}
	return list, nil
}

func parseLimit(value string) (edge.Limit, bool) {
	key, rest, _ := strings.Cut(value, "=")
	rate, path, forPath := strings.Cut(rest, "@")
	count, period, _ := strings.Cut(rate, "/")
	l := edge.Limit{Name: limitName(value), Key: key, Period: units[period]}
	var err error
	if l.Limit, err = strconv.ParseUint(count, 10, 32); err != nil || l.Limit == 0 {
		return l, false
	}
	if l.Period == 0 {
		if l.Period, err = time.ParseDuration(period); err != nil || l.Period <= 0 {
			return l, false
		}
	}
	if forPath {
		l.Paths = []string{path}
	}
	header, byHeader := strings.CutPrefix(key, "header ")
	known := key == edge.ByAddress || key == edge.BySubject || byHeader && header != ""
	return l, known && (!forPath || strings.HasPrefix(path, "/"))
}

// limitName is the value in the letters that names of metrics and header fields can have.
func limitName(value string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, value)
	return strings.Trim(name, "-")
}

// parseDescriptors reads values such as "catalog=catalog.binpb" into files by service.
func parseDescriptors(values []string, services []service) (map[string][]string, error) {
	files := map[string][]string{}
	for _, value := range values {
		name, file, some := strings.Cut(value, "=")
		if !some || file == "" {
			return nil, cli.Usagef("--descriptors %q: write SERVICE=FILE, such as catalog=catalog.binpb: a descriptor set does not say who serves what", value)
		}
		if !slices.ContainsFunc(services, func(s service) bool { return s.name == name }) {
			return nil, cli.Usagef("--descriptors %q: %q is none of the services that are let out: give it as an argument, too", value, name)
		}
		files[name] = append(files[name], file)
	}
	return files, nil
}
