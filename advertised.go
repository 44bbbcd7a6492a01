package meshlite

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// resolveNetwork replaces a network in the advertised address by the machine's own address
// there.
func (c *serverConfig) resolveNetwork(own func() ([]net.Addr, error)) error {
	text, port := c.advertised, ""
	if host, p, err := net.SplitHostPort(c.advertised); err == nil {
		text, port = host, p
	}
	if !strings.Contains(text, "/") {
		return nil
	}
	network, err := netip.ParsePrefix(strings.Trim(text, "[]"))
	if err != nil {
		return optionError("WithAdvertisedAddress", c.advertised, "write a network such as 10.1.0.0/16 or fd00:1::/64, or a host")
	}
	addresses, err := own()
	if err != nil {
		return optionError("WithAdvertisedAddress", c.advertised, "the addresses of this machine are not to be had: "+err.Error())
	}
	var inside, all []netip.Addr
	for _, a := range addresses {
		ip, ok := netip.AddrFromSlice(ipOf(a))
		if ip = ip.Unmap(); !ok || ip.IsLinkLocalUnicast() { // a link's address needs its zone
			continue
		}
		all = append(all, ip)
		if network.Contains(ip) {
			inside = append(inside, ip)
		}
	}
	if len(inside) != 1 {
		return optionError("WithAdvertisedAddress", c.advertised, fmt.Sprintf("this machine has %d addresses there, of %v: write a network in which it has one", len(inside), all))
	}
	if c.advertised = inside[0].String(); port != "" {
		c.advertised = net.JoinHostPort(c.advertised, port)
	}
	return nil
}

func ipOf(a net.Addr) net.IP {
	if n, ok := a.(*net.IPNet); ok {
		return n.IP
	}
	return nil
}
