package catalog

import (
	"errors"
	"net"
	"net/netip"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// InstanceID returns the id under which a server registers, from the service and the address
// "host:port", such as catalog-10-0-0-1-8080. For the IPv6 address [2001:db8::1]:8080 it
// is catalog-2001-db8--1-8080, and for [::1]:8080 catalog-0--1-8080.
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

// CheckName returns why the name of a service or an instance cannot be part of the path of a
// URL, or be printed. A directory may accept such a name and not find it again: servers clean
// paths, and Consul rejects a path with unprintable characters.
func CheckName(name string) error {
	if err := CheckPrintable(name); err != nil {
		return err
	}
	if path.Clean("/"+name) != "/"+name {
		return errors.New("in the path of a URL it changes: write no slash at its beginning or end, no two in a row, and neither . nor .. alone between them")
	}
	return nil
}

// CheckPrintable returns why text, such as a tag or a zone, cannot be printed or be a label
// of a metric.
func CheckPrintable(text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("it holds characters that cannot be printed: write letters, digits, spaces and punctuation in UTF-8")
	}
	return nil
}
