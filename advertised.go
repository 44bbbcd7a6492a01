package meshlite

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// inNetwork returns the address to advertise: a network in advertised is replaced by the
// machine's own address there.
func inNetwork(advertised string, own func() ([]net.Addr, error)) (string, error) {
	text, port := advertised, ""
	if host, p, err := net.SplitHostPort(advertised); err == nil {
		text, port = host, p
	}
	if !strings.Contains(text, "/") {
		return advertised, nil
	}
	network, err := netip.ParsePrefix(strings.Trim(text, "[]"))
	if err != nil {
		return "", optionError("WithAdvertisedAddress", advertised, "write a network such as 10.1.0.0/16 or fd00:1::/64, or a host")
	}
	addresses, err := own()
	if err != nil {
		return "", optionError("WithAdvertisedAddress", advertised, "the addresses of this machine are not to be had: "+err.Error())
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
		return "", optionError("WithAdvertisedAddress", advertised, fmt.Sprintf("this machine has %d addresses there, of %v: write a network in which it has one", len(inside), all))
	}
	if port == "" {
		return inside[0].String(), nil
	}
	return net.JoinHostPort(inside[0].String(), port), nil
}

func ipOf(a net.Addr) net.IP {
	if n, ok := a.(*net.IPNet); ok {
		return n.IP
	}
	return nil
}
