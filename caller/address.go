package caller

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// forwardedKey is where a proxy writes for whom it calls.
const forwardedKey = "x-forwarded-for"

// prefixes are the networks of trusted peers.
type prefixes []netip.Prefix

func (p prefixes) has(addr netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// peer reports whether the peer of ctx is in one of them.
func (p prefixes) peer(ctx context.Context) bool {
	if len(p) == 0 {
		return false
	}
	from, ok := peer.FromContext(ctx)
	if !ok || from.Addr == nil {
		return false
	}
	addr, ok := addressOf(from.Addr)
	return ok && p.has(addr)
}

// Address is the network address of the caller whose call is served with ctx: the first one
// that is not in a trusted network, from the peer on back through x-forwarded-for from the
// right, as realip of go-grpc-middleware finds it. Each trusted one vouches for the next, so
// what an untrusted one has written, or left of it, does not count. It is the farthest one
// when all are trusted, and false where the peer has no IP address.
func (c *Callers) Address(ctx context.Context) (netip.Addr, bool) {
	from, ok := peer.FromContext(ctx)
	if !ok || from.Addr == nil {
		return netip.Addr{}, false
	}
	addr, ok := addressOf(from.Addr)
	if !ok || c == nil || !c.prefixes.has(addr) {
		return addr, ok
	}
	return c.AddressBehind(addr, metadata.ValueFromIncomingContext(ctx, forwardedKey)), true
}

// AddressBehind is the address of [Callers.Address] for a peer with the address from, and
// lines of x-forwarded-for in the order in which they came.
func (c *Callers) AddressBehind(from netip.Addr, lines []string) netip.Addr {
	addr := plain(from)
	if c == nil || !c.prefixes.has(addr) {
		return addr
	}
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			var last string
			rest, last, more = cutLast(rest)
			next, err := ParseAddress(strings.TrimSpace(last))
			if err != nil {
				return addr
			}
			if addr = next; !c.prefixes.has(addr) {
				return addr
			}
		}
	}
	return addr
}

func cutLast(list string) (rest, last string, more bool) {
	if i := strings.LastIndexByte(list, ','); i >= 0 {
		return list[:i], list[i+1:], true
	}
	return "", list, false
}

// ParseAddress reads an address, with a port too, which some proxies write in
// x-forwarded-for. It is in the form of [Callers.Address].
func ParseAddress(text string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(text); err == nil { // net/http's form
		return plain(withPort.Addr()), nil
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}, err
	}
	return plain(addr), nil
}

// plain is an address without what two addresses of one caller may differ in.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func addressOf(from net.Addr) (netip.Addr, bool) {
	if tcp, ok := from.(*net.TCPAddr); ok {
		addr := tcp.AddrPort().Addr()
		return plain(addr), addr.IsValid()
	}
	addr, err := netip.ParseAddrPort(from.String())
	return plain(addr.Addr()), err == nil
}
