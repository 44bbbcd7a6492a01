package ratelimit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// defaultIPv6Prefix is what one subscriber is given at least (RFC 6177).
const defaultIPv6Prefix = 64

// keyer finds the key under which a call counts at one limit.
type keyer struct {
	name string // of what it counts by, for people; "" is all callers together
	// dimension is what a client can count by, in the terms of a QuotaFailure.
	dimension string
	seeds     *seeds
	limit     key // of all keys of the limit: that of callers without a value

	// find is nil where all callers count together. req is nil for a stream. It finds no
	// key for a call without a value, and fails for one whose value cannot be read.
	find finder
	// missing says how a call without a value counts; value is what such a call lacks, for
	// people.
	missing policyv1.MissingKey
	value   string
	byPeer  finder
	// parse is the key that find returns for a value that somebody has written down.
	parse func(value string) (key, error)
	// display is the value where it is no secret, or nil.
	display func(ctx context.Context) string
}

// finder returns the zero key for a call that has none.
type finder func(ctx context.Context, req any) (key, error)

// key finds the key of a call. Calls without a value share the limit's own, unless the
// policy says otherwise. An error comes with that key, for a limit in shadow.
func (k *keyer) key(ctx context.Context, req any) (found key, keyless bool, err error) {
	if k.find == nil {
		return k.limit, false, nil
	}
	found, err = k.find(ctx, req)
	if found != (key{}) || err != nil {
		return found.combine(k.limit), false, err
	}
	switch k.missing {
	case policyv1.MissingKey_MISSING_KEY_REFUSE:
		err = status.Errorf(codes.InvalidArgument, "the call has no %s, by which its rate limit counts: send it", k.value)
	case policyv1.MissingKey_MISSING_KEY_PEER:
		found, err = k.byPeer(ctx, req)
		found = found.combine(k.seeds.hash("by peer"))
	}
	return found.combine(k.limit), true, err
}

// ofValue is the key of a value that somebody has written down.
func (k *keyer) ofValue(value string) (key, error) {
	if k.find == nil && value != "" {
		return key{}, fmt.Errorf("%q is no key: the limit counts all callers together, whose key is \"\"", value)
	}
	if k.find == nil || value == "" {
		return k.limit, nil
	}
	found, err := k.parse(value)
	return found.combine(k.limit), err
}

// show is the value of a key where it is no secret. Of others it is a hash under
// this process's secret seed, which distinguishes them and shows nothing else.
func (k *keyer) show(ctx context.Context, found key, seeds *seeds) string {
	switch {
	case k.display != nil:
		return k.display(ctx)
	case found == k.limit: // all callers, or those without a value
		return ""
	default:
		bytes := found.combine(k.limit).bytes()
		return fmt.Sprintf("#%08x", uint32(seeds.hashBytes(bytes[:]).hi))
	}
}

// newKeyer counts by function or, where that is nil, by the key of the policy.
func newKeyer(seeds *seeds, meta *interceptors.CallMeta, rule *policyv1.RateLimitRule, callers *caller.Callers, function func(context.Context, any) (string, bool)) keyer {
	k := keyer{seeds: seeds, missing: rule.GetMissingKey(), parse: func(value string) (key, error) { return seeds.hash(value), nil }}
	if function != nil {
		k.name, k.find = "function", functionKey(seeds, function)
	} else {
		k.countBy(rule.GetKey(), meta, callers)
	}
	if k.missing == policyv1.MissingKey_MISSING_KEY_PEER {
		k.byPeer, _ = peerKey(seeds, callers, defaultIPv6Prefix)
	}
	if k.dimension == "" {
		k.dimension = k.name
	}
	k.limit = seeds.hash(fmt.Sprintf("%v %q %q %s", meta.Side, meta.FullMethod, rule.GetName(), k.name))
	return k
}

func (k *keyer) countBy(policy *policyv1.RateLimitKey, meta *interceptors.CallMeta, callers *caller.Callers) {
	switch by := policy.GetBy().(type) {
	case *policyv1.RateLimitKey_Peer:
		k.name = "peer"
		if meta.Side == interceptors.Server { // a client has picked no peer yet: all calls count together
			k.countByPeer(by.Peer, callers)
		}
	case *policyv1.RateLimitKey_Identity:
		k.name, k.value = "identity", "identity"
		k.find = identityKey(k.seeds, callers, meta.Side)
		if callers.Declares() {
			k.dimension = callers.Source()
		}
		if name, ok := strings.CutPrefix(k.dimension, "metadata "); ok {
			k.value = fmt.Sprintf("metadata %q", name)
		}
	case *policyv1.RateLimitKey_Metadata:
		k.name, k.value = "metadata "+by.Metadata, fmt.Sprintf("metadata %q", by.Metadata)
		k.find = metadataKey(k.seeds, meta.Side, by.Metadata)
	case *policyv1.RateLimitKey_Field:
		k.name = "request field " + by.Field
		k.find, k.parse = fieldKey(k.seeds, meta.Descriptor, by.Field)
	}
}

func (k *keyer) countByPeer(by *policyv1.PeerKey, callers *caller.Callers) {
	bits, seeds := defaultIPv6Prefix, k.seeds
	if by.GetIpv6Prefix() > 0 {
		bits = int(by.GetIpv6Prefix())
	}
	k.find, k.display = peerKey(seeds, callers, bits)
	k.parse = func(value string) (key, error) {
		if prefix, err := netip.ParsePrefix(value); err == nil {
			return seeds.hashAddr(network(prefix.Addr().Unmap().WithZone(""), bits)), nil
		}
		if addr, err := caller.ParseAddress(value); err == nil {
			return seeds.hashAddr(network(addr, bits)), nil
		}
		return seeds.hash(value), nil
	}
}

func functionKey(seeds *seeds, function func(context.Context, any) (string, bool)) finder {
	return func(ctx context.Context, req any) (key, error) {
		if value, ok := function(ctx, req); ok {
			return seeds.hash(value), nil
		}
		return key{}, nil
	}
}

// peerKey finds the caller's network address, and displays it. It finds nothing where the
// peer is not known.
func peerKey(seeds *seeds, callers *caller.Callers, bits int) (find finder, display func(context.Context) string) {
	find = func(ctx context.Context, _ any) (key, error) {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return key{}, nil
		}
		if addr, ok := callers.Address(ctx); ok {
			return seeds.hashAddr(network(addr, bits)), nil
		}
		return seeds.hash(p.Addr.String()), nil // no IP address, such as a socket's path
	}
	display = func(ctx context.Context) string {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return ""
		}
		if addr, ok := callers.Address(ctx); ok {
			return networkName(network(addr, bits))
		}
		return p.Addr.String()
	}
	return find, display
}

// network is addr or, in IPv6, all of its subscriber's addresses.
func network(addr netip.Addr, bits int) netip.Prefix {
	if addr.Is4() {
		bits = 32
	}
	prefix, _ := addr.Prefix(bits) // bits were checked with the policy
	return prefix
}

// networkName is how people write a network: one address without its length.
func networkName(network netip.Prefix) string {
	if network.IsSingleIP() {
		return network.Addr().String()
	}
	return network.String()
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

// fieldKey is nil where the request's type is not known.
func fieldKey(seeds *seeds, method protoreflect.MethodDescriptor, text string) (find finder, parse func(string) (key, error)) {
	if method == nil {
		return nil, nil
	}
	path, err := interceptors.FieldPath(method.Input(), text)
	if err != nil {
		return nil, nil
	}
	find = func(_ context.Context, req any) (key, error) {
		if message, ok := req.(proto.Message); ok {
			return seeds.hashField(message.ProtoReflect(), path), nil
		}
		return key{}, nil
	}
	return find, func(value string) (key, error) {
		if !isText(path[len(path)-1]) {
			return key{}, errNotText
		}
		return seeds.hash(value), nil
	}
}

func isText(field protoreflect.FieldDescriptor) bool {
	return field.Kind() == protoreflect.StringKind && !field.IsList()
}

// key represents a key of any length by two hashes of it. Their seeds are secret,
// so nobody can choose keys that collide, and 128 bits do not collide by chance.
type key struct{ hi, lo uint64 }

// combine is the key of both. Combined twice with the same key, k is itself again.
func (k key) combine(with key) key { return key{k.hi ^ with.hi, k.lo ^ with.lo} }

func (k key) bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return b
}

// seeds are random in each process or, where replicas count together, derived from a
// secret that they share.
type seeds struct {
	random [2]maphash.Seed
	secret *[sha256.Size]byte
}

func newSeeds() seeds {
	return seeds{random: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

// newStoreSeeds give the same keys in every process.
func newStoreSeeds(secret *string) seeds {
	text := "meshlite rate limit\n"
	if secret != nil {
		text += *secret
	}
	sum := sha256.Sum256([]byte(text))
	return seeds{secret: &sum}
}

func (s *seeds) hash(text string) key {
	if s.secret != nil {
		return s.keyed([]byte(text))
	}
	return key{maphash.String(s.random[0], text), maphash.String(s.random[1], text)}
}

func (s *seeds) hashBytes(b []byte) key {
	if s.secret != nil {
		return s.keyed(b)
	}
	return key{maphash.Bytes(s.random[0], b), maphash.Bytes(s.random[1], b)}
}

// keyed is SHA-256 with the secret before the text. It needs no HMAC: half of the digest
// is withheld, which prevents length extension.
func (s *seeds) keyed(b []byte) key {
	var space [128]byte
	sum := sha256.Sum256(append(append(space[:0], s.secret[:]...), b...))
	return key{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

// hashAll depends on the order of texts and on where each ends.
func (s *seeds) hashAll(texts []string) key {
	const prime = 0x9e3779b97f4a7c15
	var all key
	for _, text := range texts {
		one := s.hash(text)
		all = key{all.hi*prime + one.hi, all.lo*prime + one.lo}
	}
	return all
}

func (s *seeds) hashAddr(network netip.Prefix) key {
	bytes := network.Addr().As16()
	return s.hashBytes(bytes[:])
}

// hashField treats a field that is absent like one without a value.
func (s *seeds) hashField(m protoreflect.Message, path []protoreflect.FieldDescriptor) key {
	for i, step := range path {
		// By number: a dynamic message has descriptors of its own.
		field := m.Descriptor().Fields().ByNumber(step.Number())
		if field == nil || field.Kind() != step.Kind() || field.Cardinality() != step.Cardinality() || !m.Has(field) {
			return key{}
		}
		if i < len(path)-1 {
			m = m.Get(field).Message()
			continue
		}
		if isText(field) {
			return s.hash(m.Get(field).String())
		}
		return s.hashLeaf(m, field)
	}
	return key{}
}

// hashLeaf hashes the bytes of a message that has field and nothing else.
func (s *seeds) hashLeaf(m protoreflect.Message, field protoreflect.FieldDescriptor) key {
	only := m.New()
	only.Set(field, m.Get(field))
	bytes, _ := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(only.Interface())
	return s.hashBytes(bytes)
}
