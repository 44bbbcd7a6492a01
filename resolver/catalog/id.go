package catalog

import (
	"net"
	"net/netip"
	"strings"
)

// InstanceID is the id under which a server registers: the service and the address,
// "host:port", of letters, digits and hyphens, such as catalog-10-0-0-1-8080. Of an
// IPv6 address [2001:db8::1]:8080 it is catalog-2001-db8--1-8080, and of [::1]:8080
// catalog-0--1-8080.
func InstanceID(service, address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return service + "-" + strings.Map(hyphenate, address)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
		if strings.HasPrefix(host, "::") {
			host = "0" + host
		}
		if strings.HasSuffix(host, "::") {
			host += "0"
		}
	}
	return service + "-" + strings.Map(hyphenate, host+":"+port)
}

func hyphenate(c rune) rune {
	if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
		return c
	}
	return '-'
}
