package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// defaultIPv6Prefix is what one subscriber is given at least (RFC 6177).
const defaultIPv6Prefix = 64

// keyer finds whose call it is.
type keyer struct {
	by    string // what it counts by, for people
	seen  string // by what a client can tell whose call it is, if it can
	seeds *seeds
	limit key // of all keys of the limit: that of callers without a value

	// of is nil where all callers count together. req is nil for a stream.
	of func(ctx context.Context, req any) key
	// named is the key that of finds for a value that somebody has written down.
	named func(value string) (key, error)
	// open is the value where it is no secret, or nil.
	open func(ctx context.Context) string
}

// key finds whose call it is. Callers without a value share the limit's own.
func (k *keyer) key(ctx context.Context, req any) key {
	if k.of == nil {
		return k.limit
	}
	return k.of(ctx, req).of(k.limit)
}

// find is the key of a value.
func (k *keyer) find(value string) (key, error) {
	if k.of == nil && value != "" {
		return key{}, fmt.Errorf("%q is no key: the limit counts all callers together, whose key is \"\"", value)
	}
	if k.of == nil || value == "" {
		return k.limit, nil
	}
	found, err := k.named(value)
	return found.of(k.limit), err
}

// newKeyer makes what the policy says, unless a function takes its place.
func (l *Limiter) newKeyer(meta *interceptors.CallMeta, name string, by *policyv1.RateLimitKey, seeds *seeds) keyer {
	k := keyer{seeds: seeds, named: func(value string) (key, error) { return seeds.hash(value), nil }}
	if of := l.options.rules[name]; of != nil && of.key != nil {
		k.by, k.of = "function", functionKey(seeds, of.key)
	} else {
		l.keyBy(&k, meta, by)
	}
	if k.seen == "" {
		k.seen = k.by
	}
	k.limit = seeds.hash(fmt.Sprintf("%v %q %q %s", meta.Side, meta.FullMethod, name, k.by))
	return k
}

func functionKey(seeds *seeds, function func(context.Context, any) (string, bool)) func(context.Context, any) key {
	return func(ctx context.Context, req any) key {
		if value, ok := function(ctx, req); ok {
			return seeds.hash(value)
		}
		return key{}
	}
}

func (l *Limiter) keyBy(k *keyer, meta *interceptors.CallMeta, by *policyv1.RateLimitKey) {
	seeds := k.seeds
	switch by := by.GetBy().(type) {
	case *policyv1.RateLimitKey_Peer:
		k.by = "peer"
		l.keyByPeer(k, meta.Side, by.Peer)
	case *policyv1.RateLimitKey_Identity:
		k.by = "identity"
		k.of = l.identityKey(seeds, meta.Side)
		if l.options.identity != nil {
			k.seen = "function"
		} else if name := l.options.identityKey; name != nil {
			k.seen = "metadata " + *name
		}
	case *policyv1.RateLimitKey_Metadata:
		k.by = "metadata " + by.Metadata
		k.of = metadataKey(seeds, meta.Side, by.Metadata)
		k.named = func(value string) (key, error) { return seeds.hashAll([]string{value}), nil }
	case *policyv1.RateLimitKey_Field:
		k.by = "request field " + by.Field
		k.of, k.named = fieldKey(seeds, meta.Descriptor, by.Field)
	}
}

// keyByPeer leaves all together on the client, where no peer is picked yet.
func (l *Limiter) keyByPeer(k *keyer, side interceptors.Side, by *policyv1.PeerKey) {
	if side == interceptors.Client {
		return
	}
	bits, seeds, trusted := defaultIPv6Prefix, k.seeds, l.options.trusted
	if by.GetIpv6Prefix() > 0 {
		bits = int(by.GetIpv6Prefix())
	}
	k.of = func(ctx context.Context, _ any) key {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return key{}
		}
		if addr, ok := trusted.caller(ctx, p.Addr); ok {
			return seeds.hashAddr(network(addr, bits))
		}
		return seeds.hash(p.Addr.String()) // no IP address, such as a socket's path
	}
	k.open = func(ctx context.Context) string {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return ""
		}
		if addr, ok := trusted.caller(ctx, p.Addr); ok {
			return name(network(addr, bits))
		}
		return p.Addr.String()
	}
	k.named = func(value string) (key, error) {
		if prefix, err := netip.ParsePrefix(value); err == nil {
			return seeds.hashAddr(network(plain(prefix.Addr()), bits)), nil
		}
		if addr, err := parseForwarded(value); err == nil {
			return seeds.hashAddr(network(addr, bits)), nil
		}
		return seeds.hash(value), nil
	}
}

// network is addr or, in IPv6, all of its subscriber's addresses.
func network(addr netip.Addr, bits int) netip.Prefix {
	if addr.Is4() {
		bits = 32
	}
	prefix, _ := addr.Prefix(bits) // bits were checked with the policy
	return prefix
}

// name is how people write a network: one address without its length.
func name(network netip.Prefix) string {
	if network.IsSingleIP() {
		return network.Addr().String()
	}
	return network.String()
}

func (s *seeds) hashAddr(network netip.Prefix) key {
	bytes := network.Addr().As16()
	return s.hashBytes(bytes[:])
}

func (l *Limiter) identityKey(seeds *seeds, side interceptors.Side) func(context.Context, any) key {
	switch {
	case l.options.identity != nil:
		return func(ctx context.Context, _ any) key {
			if identity, ok := l.options.identity(ctx); ok {
				return seeds.hash(identity)
			}
			return key{}
		}
	case l.options.identityKey != nil:
		return func(ctx context.Context, _ any) key {
			named := valuesOf(ctx, side, *l.options.identityKey)
			if len(named) != 1 || named[0] == "" {
				return key{} // two names are no name
			}
			return seeds.hash(named[0])
		}
	case side == interceptors.Server:
		return func(ctx context.Context, _ any) key { return seeds.hashPeerNames(ctx) }
	default:
		return nil
	}
}

// hashPeerNames takes what a verified certificate calls the peer, which stays when
// the certificate is renewed: its SPIFFE id, or else its names.
func (s *seeds) hashPeerNames(ctx context.Context) key {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return key{}
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return key{}
	}
	if tls.SPIFFEID != nil {
		return s.hash(tls.SPIFFEID.String())
	}
	leaf := tls.State.PeerCertificates[0]
	return s.hashAll(leaf.DNSNames).of(s.hashBytes(leaf.RawSubject))
}

func metadataKey(seeds *seeds, side interceptors.Side, name string) func(context.Context, any) key {
	return func(ctx context.Context, _ any) key { return seeds.hashAll(valuesOf(ctx, side, name)) }
}

func valuesOf(ctx context.Context, side interceptors.Side, name string) []string {
	if side == interceptors.Server {
		return metadata.ValueFromIncomingContext(ctx, name)
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	return md.Get(name)
}

var errNotText = errors.New("the request field is no string: only keys of string fields can be written down")
