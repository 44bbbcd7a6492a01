package ratelimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/realip"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// forwarded is a call from a peer that writes for whom it calls, in one line or more.
func forwarded(peer string, lines ...string) context.Context {
	return metadata.NewIncomingContext(tcp(peer), metadata.MD{"x-forwarded-for": lines})
}

// L4: An IPv6 client rotating inside its /64 is one key; a spoofed x-forwarded-for
// from an untrusted peer gets 0 of 10,000 fresh buckets.
func TestNobodyGetsFreshBucketsByOtherAddresses(t *testing.T) {
	for name, ctx := range map[string]func(i int) context.Context{
		"rotating inside a /64": func(i int) context.Context { return tcp(fmt.Sprintf("[2001:db8::%x:%x]:1", i, i)) },
		"spoofing, peer untrusted": func(i int) context.Context {
			return forwarded("192.0.2.1:1", fmt.Sprintf("198.51.%d.%d", i/250, i%250))
		},
		"spoofing, through a proxy": func(i int) context.Context {
			return forwarded("10.0.0.1:1", fmt.Sprintf("198.51.%d.%d, 192.0.2.1", i/250, i%250))
		},
		"spoofing, in lines": func(i int) context.Context {
			return forwarded("10.0.0.1:1", fmt.Sprintf("198.51.%d.%d", i/250, i%250), "192.0.2.1")
		},
		"rotating, through a proxy": func(i int) context.Context { return forwarded("10.0.0.1:1", fmt.Sprintf("2001:db8::%x:%x", i, i)) },
		"spoofing a trusted address": func(i int) context.Context {
			return forwarded("10.0.0.1:1", fmt.Sprintf("198.51.%d.%d, junk", i/250, i%250))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLimiter(t, callers(caller.WithTrustedPrefixes(prefix("10.0.0.0/8"))))
			part := l.UnaryServerInterceptor(policies(t, limit("one", 1, byPeer())))
			fresh := 0
			for i := range someKeys {
				if _, err := part(ctx(i), nil, &grpc.UnaryServerInfo{FullMethod: browse}, func(context.Context, any) (any, error) { return nil, nil }); err == nil {
					fresh++
				}
			}
			want(t, "buckets", fresh, 1)
		})
	}
}

// Who calls is the first address from the right that is not trusted.
func TestForwardedCallersCountEachByThemselves(t *testing.T) {
	for _, test := range []struct {
		one, two context.Context
		together bool
	}{
		{forwarded("10.0.0.1:1", "192.0.2.1"), forwarded("10.0.0.2:1", "192.0.2.1"), true},
		{forwarded("10.0.0.1:1", "192.0.2.1"), forwarded("10.0.0.1:1", "192.0.2.2"), false},
		{forwarded("10.0.0.1:1", "192.0.2.1"), tcp("192.0.2.1:7"), true},
		{forwarded("10.0.0.1:1", "192.0.2.1:443"), tcp("192.0.2.1:7"), true},
		{forwarded("10.0.0.1:1", "[2001:db8::1]:443"), tcp("[2001:db8::2]:7"), true},
		{forwarded("10.0.0.1:1", "192.0.2.1, 10.0.0.9 ,10.0.0.8"), tcp("192.0.2.1:7"), true},
		{forwarded("10.0.0.1:1", "192.0.2.1", "10.0.0.9"), tcp("192.0.2.1:7"), true},
		{forwarded("10.0.0.1:1", "10.0.0.9, 10.0.0.8"), tcp("10.0.0.9:7"), true},
		{forwarded("10.0.0.1:1", "junk, 10.0.0.8"), tcp("10.0.0.8:7"), true},
		{forwarded("10.0.0.1:1", ""), tcp("10.0.0.1:7"), true},
		{forwarded("10.0.0.1:1"), tcp("10.0.0.1:7"), true},
	} {
		l, p := newLimiter(t, callers(caller.WithTrustedPrefixes(prefix("10.0.0.0/8")))), policies(t, limit("one", 1, byPeer()))
		want(t, "first", handle(l, p, test.one, nil), nil)
		want(t, fmt.Sprint(test.one, " with ", test.two), handle(l, p, test.two, nil) != nil, test.together)
	}
}

// Where all is well formed and somebody is not trusted, realip finds the same.
func TestTheCallerIsRealIPs(t *testing.T) {
	trusted := []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}
	find := realip.UnaryServerInterceptorOpts(realip.WithTrustedPeers(trusted), realip.WithTrustedProxies(trusted), realip.WithHeaders([]string{realip.XForwardedFor}))
	some := []string{"10.0.0.1", "10.9.9.9", "fd00::1", "192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:2::1"}
	p := policies(t, limit("one", 1, byPeer()))
	random := func() string { return some[rand.IntN(len(some))] }
	for range 1000 {
		list := []string{"203.0.113.1"}
		for range rand.IntN(4) {
			list = append(list, random())
		}
		ctx := forwarded(netip.AddrPortFrom(netip.MustParseAddr(random()), 7).String(), strings.Join(list, ", "))
		var found netip.Addr
		_, _ = find(ctx, nil, nil, func(ctx context.Context, _ any) (any, error) {
			found, _ = realip.FromContext(ctx)
			return nil, nil
		})
		l := newLimiter(t, callers(caller.WithTrustedPrefixes(trusted...)), ratelimit.WithMaxKeys(64))
		want(t, "call", handle(l, p, ctx, nil), nil)
		s, err := l.Standing(browse, "one", found.String())
		if err != nil || s.Remaining != 0 {
			t.Fatalf("%v with %v is not counted as %v: %+v, %v", ctx, list, found, s, err)
		}
	}
}

// Whatever a peer writes: one that is not trusted is itself.
func FuzzForwarded(f *testing.F) {
	for _, text := range []string{"", "192.0.2.1", "192.0.2.1, 10.0.0.1", " [::1]:80 ,,", "10.0.0.1:", "fe80::1%eth0", "::ffff:10.0.0.1,%"} {
		f.Add(text)
	}
	p := policies(f, limit("one", 1, byPeer()))
	f.Fuzz(func(t *testing.T, text string) {
		l := newLimiter(t, callers(caller.WithTrustedPrefixes(prefix("10.0.0.0/8"))), ratelimit.WithMaxKeys(64))
		want(t, "through a proxy", handle(l, p, forwarded("10.0.0.1:1", text), nil), nil)
		_ = handle(l, p, forwarded("192.0.2.7:1", text), nil)
		s, err := l.Standing(browse, "one", "192.0.2.7")
		want(t, "counted as itself", err == nil && s.Remaining == 0, true)
	})
}
