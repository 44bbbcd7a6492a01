package cli

import (
	"net"
	"strconv"
	"strings"

	grpcresolver "google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/resolver"
)

// checkTarget refuses what gRPC would take for something else, such as a service
// name alone for the name of a host.
func checkTarget(target string) error {
	scheme, _, _ := strings.Cut(target, ":")
	if scheme == resolver.Scheme {
		if _, err := resolver.ParseTarget(target); err != nil {
			return &Error{ExitUsage, err}
		}
		return nil
	}
	if strings.Contains(target, "@") && !strings.HasPrefix(target, "unix") {
		return Usagef("target %q has user information: leave it out", resolver.Redact(target))
	}
	if strings.Contains(target, ":") && grpcresolver.Get(scheme) != nil {
		return nil
	}
	if strings.Contains(target, "://") {
		return Usagef("target scheme %q is not known: write consul:///service, dns:///host:port or host:port", scheme)
	}
	_, port, err := net.SplitHostPort(target)
	if err != nil {
		return Usagef("target %q has no port: write host:port, or consul:///%s for a service in Consul", target, serviceOr(target))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Usagef("target port %q is not in 1 to 65535: write host:port, or consul:///service", port)
	}
	return nil
}

// serviceOr is target where it can be a service's name, for messages.
func serviceOr(target string) string {
	if target == "" || strings.ContainsAny(target, "/:?#@ ") {
		return "service"
	}
	return target
}
