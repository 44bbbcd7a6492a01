package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/caller"
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

	// of is nil where all callers count together. req is nil for a stream. It finds no
	// key for a call without a value, and fails for one whose value is not to be had.
	of finder
	// missing is what becomes of a call without a value, and absent how people call it.
	missing policyv1.MissingKey
	absent  string
	byPeer  finder
	// named is the key that of finds for a value that somebody has written down.
	named func(value string) (key, error)
	// open is the value where it is no secret, or nil.
	open func(ctx context.Context) string
}

// finder is the zero key for a call that has none.
type finder func(ctx context.Context, req any) (key, error)

// key finds whose call it is. Calls without a value share the limit's own, unless the
// policy says otherwise. An error comes with that key, for a limit in shadow.
func (k *keyer) key(ctx context.Context, req any) (found key, absent bool, err error) {
	if k.of == nil {
		return k.limit, false, nil
	}
	found, err = k.of(ctx, req)
	if found != (key{}) || err != nil {
		return found.of(k.limit), false, err
	}
	switch k.missing {
	case policyv1.MissingKey_MISSING_KEY_REFUSE:
		err = status.Errorf(codes.InvalidArgument, "the call has no %s, by which its rate limit counts: send it", k.absent)
	case policyv1.MissingKey_MISSING_KEY_PEER:
		found, err = k.byPeer(ctx, req)
		found = found.of(k.seeds.hash("by peer"))
	}
	return found.of(k.limit), true, err
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
func (l *Limiter) newKeyer(meta *interceptors.CallMeta, rule *policyv1.RateLimitRule, seeds *seeds) keyer {
	name := rule.GetName()
	k := keyer{seeds: seeds, missing: rule.GetMissingKey(), named: func(value string) (key, error) { return seeds.hash(value), nil }}
	if of := l.options.rules[name]; of != nil && of.key != nil {
		k.by, k.of = "function", functionKey(seeds, of.key)
	} else {
		l.keyBy(&k, meta, rule.GetKey())
	}
	if k.missing == policyv1.MissingKey_MISSING_KEY_PEER {
		k.byPeer, _ = l.peerKey(seeds, defaultIPv6Prefix)
	}
	if k.seen == "" {
		k.seen = k.by
	}
	k.limit = seeds.hash(fmt.Sprintf("%v %q %q %s", meta.Side, meta.FullMethod, name, k.by))
	return k
}

func functionKey(seeds *seeds, function func(context.Context, any) (string, bool)) finder {
	return func(ctx context.Context, req any) (key, error) {
		if value, ok := function(ctx, req); ok {
			return seeds.hash(value), nil
		}
		return key{}, nil
	}
}

func (l *Limiter) keyBy(k *keyer, meta *interceptors.CallMeta, by *policyv1.RateLimitKey) {
	seeds := k.seeds
	switch by := by.GetBy().(type) {
	case *policyv1.RateLimitKey_Peer:
		k.by = "peer"
		l.keyByPeer(k, meta.Side, by.Peer)
	case *policyv1.RateLimitKey_Identity:
		k.by, k.absent = "identity", "identity"
		k.of = identityKey(seeds, l.options.callers, meta.Side)
		if l.options.callers.Declares() {
			k.seen = l.options.callers.Source()
		}
		if name, ok := strings.CutPrefix(k.seen, "metadata "); ok {
			k.absent = fmt.Sprintf("metadata %q", name)
		}
	case *policyv1.RateLimitKey_Metadata:
		k.by, k.absent = "metadata "+by.Metadata, fmt.Sprintf("metadata %q", by.Metadata)
		k.of = metadataKey(seeds, meta.Side, by.Metadata)
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
	bits, seeds := defaultIPv6Prefix, k.seeds
	if by.GetIpv6Prefix() > 0 {
		bits = int(by.GetIpv6Prefix())
	}
	k.of, k.open = l.peerKey(seeds, bits)
	k.named = func(value string) (key, error) {
		if prefix, err := netip.ParsePrefix(value); err == nil {
			return seeds.hashAddr(network(prefix.Addr().Unmap().WithZone(""), bits)), nil
		}
		if addr, err := caller.ParseAddress(value); err == nil {
			return seeds.hashAddr(network(addr, bits)), nil
		}
		return seeds.hash(value), nil
	}
}

// peerKey finds the caller's network address, and shows it. It finds nothing where the
// peer is not known.
func (l *Limiter) peerKey(seeds *seeds, bits int) (of finder, open func(context.Context) string) {
	callers := l.options.callers
	of = func(ctx context.Context, _ any) (key, error) {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return key{}, nil
		}
		if addr, ok := callers.Address(ctx); ok {
			return seeds.hashAddr(network(addr, bits)), nil
		}
		return seeds.hash(p.Addr.String()), nil // no IP address, such as a socket's path
	}
	open = func(ctx context.Context) string {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return ""
		}
		if addr, ok := callers.Address(ctx); ok {
			return name(network(addr, bits))
		}
		return p.Addr.String()
	}
	return of, open
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

// identityKey is nil on a client whose options declare no identity.
func identityKey(seeds *seeds, callers *caller.Callers, side interceptors.Side) finder {
	identity := callers.Incoming
	if side == interceptors.Client {
		if identity = callers.Outgoing; !callers.Declares() {
			return nil
		}
	}
	return func(ctx context.Context, _ any) (key, error) {
		value, err := identity(ctx)
		if value == "" || err != nil {
			return key{}, err
		}
		return seeds.hash(value), nil
	}
}

func metadataKey(seeds *seeds, side interceptors.Side, name string) finder {
	return func(ctx context.Context, _ any) (key, error) {
		value, err := interceptors.MetadataValue(ctx, side, name)
		if value == "" || err != nil {
			return key{}, err
		}
		return seeds.hash(value), nil
	}
}

var errNotText = errors.New("the request field is no string: only keys of string fields can be written down")
