package ratelimit

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

// trust are the networks whose word counts.
type trust []netip.Prefix

func (t trust) has(addr netip.Addr) bool {
	for _, prefix := range t {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// peer reports whether the peer itself is trusted.
func (t trust) peer(ctx context.Context) bool {
	if len(t) == 0 {
		return false
	}
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return false
	}
	addr, ok := addressOf(p.Addr)
	return ok && t.has(addr)
}

// caller is the first address that is not trusted, from the peer on back through
// x-forwarded-for from the right, as realip of go-grpc-middleware finds it. Each
// trusted one vouches for the next, so what an untrusted one has written, or left
// of it, counts nothing. It is the farthest one when all are trusted.
func (t trust) caller(ctx context.Context, from net.Addr) (netip.Addr, bool) {
	addr, ok := addressOf(from)
	if !ok || !t.has(addr) {
		return addr, ok
	}
	values := metadata.ValueFromIncomingContext(ctx, forwardedKey)
	for i := len(values) - 1; i >= 0; i-- {
		for rest, more := values[i], true; more; {
			var last string
			rest, last, more = cutLast(rest)
			next, err := parseForwarded(strings.TrimSpace(last))
			if err != nil {
				return addr, true
			}
			if addr = next; !t.has(addr) {
				return addr, true
			}
		}
	}
	return addr, true
}

func cutLast(list string) (rest, last string, more bool) {
	if i := strings.LastIndexByte(list, ','); i >= 0 {
		return list[:i], list[i+1:], true
	}
	return "", list, false
}

// parseForwarded takes an address with a port too, which some proxies write.
func parseForwarded(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		withPort, portErr := netip.ParseAddrPort(text)
		if portErr != nil {
			return netip.Addr{}, err
		}
		addr = withPort.Addr()
	}
	return plain(addr), nil
}

// plain is an address without what does not tell callers apart.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func addressOf(from net.Addr) (netip.Addr, bool) {
	if tcp, ok := from.(*net.TCPAddr); ok {
		addr := tcp.AddrPort().Addr()
		return plain(addr), addr.IsValid()
	}
	addr, err := netip.ParseAddrPort(from.String())
	return plain(addr.Addr()), err == nil
}
