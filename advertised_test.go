package meshlite

import (
	"errors"
	"net"
	"strings"
	"testing"
)

func TestAdvertisedNetwork(t *testing.T) {
	own := func() ([]net.Addr, error) {
		var all []net.Addr
		for _, text := range []string{"127.0.0.1/8", "172.30.0.7/16", "10.1.2.3/24", "10.1.2.4/24", "fd00:1::7/64", "fe80::1/64"} {
			ip, network, err := net.ParseCIDR(text)
			if err != nil {
				return nil, err
			}
			all = append(all, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		return all, nil
	}
	for given, want := range map[string]string{
		"172.30.0.0/16":      "172.30.0.7",
		"172.30.0.0/16:8080": "172.30.0.7:8080",
		"172.16.0.0/12":      "172.30.0.7",
		"fd00:1::/64":        "fd00:1::7",
		"[fd00:1::/64]:8080": "[fd00:1::7]:8080",
		"10.1.2.4/32":        "10.1.2.4",
		"catalog.example":    "catalog.example",
		"10.9.9.9:80":        "10.9.9.9:80",
		"":                   "",
	} {
		c := serverConfig{advertised: given}
		if err := c.resolveNetwork(own); err != nil || c.advertised != want {
			t.Errorf("%q became %q (%v), want %q", given, c.advertised, err, want)
		}
	}
	for given, want := range map[string]string{
		"10.1.0.0/16":    "this machine has 2 addresses there",
		"192.168.0.0/16": "this machine has 0 addresses there, of [127.0.0.1 172.30.0.7",
		"fe80::/10":      "this machine has 0 addresses",
		"10.1.0.0/33":    "write a network such as",
		"eth0/1":         "write a network such as",
	} {
		c := serverConfig{advertised: given}
		if err := c.resolveNetwork(own); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), given) {
			t.Errorf("%q: %v, want %q", given, err, want)
		}
	}
	c := serverConfig{advertised: "10.0.0.0/8"}
	broken := errors.New("no netlink")
	if err := c.resolveNetwork(func() ([]net.Addr, error) { return nil, broken }); err == nil || !strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("%v, want that the addresses are not to be had", err)
	}
	if _, err := NewServer("catalog", WithPlaintext(), WithAdvertisedAddress("10.1.0.0/33")); err == nil {
		t.Error("a network that is none is accepted")
	}
	server, err := NewServer("catalog", WithPlaintext(), WithAdvertisedAddress("127.0.0.0/8:8080"))
	if err != nil || server.config.advertised != "127.0.0.1:8080" {
		t.Errorf("%v, want 127.0.0.1:8080", err)
	}
}
