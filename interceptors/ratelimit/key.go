package ratelimit

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// defaultIPv6Prefix is what one subscriber is given at least (RFC 6177).
const defaultIPv6Prefix = 64

// keyer finds whose call it is. Callers without a value share the key of the
// limit itself. req is nil for a stream.
type keyer func(ctx context.Context, req any) key

// newKeyer says what a limit counts by, for people, and makes the keyer.
func (l *Limiter) newKeyer(meta *interceptors.CallMeta, name string, by *policyv1.RateLimitKey) (string, keyer) {
	text, value := "", keyer(nil)
	switch by := by.GetBy().(type) {
	case *policyv1.RateLimitKey_Peer:
		text, value = "peer", l.peerKeyer(meta.Side, by.Peer)
	case *policyv1.RateLimitKey_Identity:
		text, value = "identity", l.identityKeyer(meta.Side)
	case *policyv1.RateLimitKey_Metadata:
		text, value = "metadata "+by.Metadata, l.metadataKeyer(meta.Side, by.Metadata)
	case *policyv1.RateLimitKey_Field:
		text, value = "request field "+by.Field, l.fieldKeyer(meta, by.Field)
	}
	limit := l.table.seeds.hash(fmt.Sprintf("%v %q %q %s", meta.Side, meta.FullMethod, name, text))
	if value == nil {
		return text, func(context.Context, any) key { return limit }
	}
	return text, func(ctx context.Context, req any) key { return value(ctx, req).of(limit) }
}

// peerKeyer is nil on the client, where no peer is picked yet.
func (l *Limiter) peerKeyer(side interceptors.Side, by *policyv1.PeerKey) keyer {
	if side == interceptors.Client {
		return nil
	}
	prefix := defaultIPv6Prefix
	if by.GetIpv6Prefix() > 0 {
		prefix = int(by.GetIpv6Prefix())
	}
	return func(ctx context.Context, _ any) key {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return key{}
		}
		return l.table.seeds.hashAddr(p.Addr, prefix)
	}
}

// hashAddr takes an address that is no IP address as it is written.
func (s *seeds) hashAddr(from net.Addr, prefix int) key {
	addr, ok := addressOf(from)
	if !ok {
		return s.hash(from.String())
	}
	if addr = addr.Unmap(); addr.Is6() {
		addr = netip.PrefixFrom(addr, prefix).Masked().Addr()
	}
	bytes := addr.As16()
	return s.hashBytes(bytes[:])
}

func addressOf(from net.Addr) (netip.Addr, bool) {
	if tcp, ok := from.(*net.TCPAddr); ok {
		addr := tcp.AddrPort().Addr()
		return addr, addr.IsValid()
	}
	addr, err := netip.ParseAddrPort(from.String())
	return addr.Addr(), err == nil
}

func (l *Limiter) identityKeyer(side interceptors.Side) keyer {
	switch {
	case l.options.identity != nil:
		return func(ctx context.Context, _ any) key {
			if identity, ok := l.options.identity(ctx); ok {
				return l.table.seeds.hash(identity)
			}
			return key{}
		}
	case l.options.identityKey != nil:
		return func(ctx context.Context, _ any) key {
			named := valuesOf(ctx, side, *l.options.identityKey)
			if len(named) != 1 || named[0] == "" {
				return key{} // two names are no name
			}
			return l.table.seeds.hash(named[0])
		}
	case side == interceptors.Server:
		return func(ctx context.Context, _ any) key { return l.table.seeds.hashPeerNames(ctx) }
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

func (l *Limiter) metadataKeyer(side interceptors.Side, name string) keyer {
	return func(ctx context.Context, _ any) key { return l.table.seeds.hashAll(valuesOf(ctx, side, name)) }
}

func valuesOf(ctx context.Context, side interceptors.Side, name string) []string {
	if side == interceptors.Server {
		return metadata.ValueFromIncomingContext(ctx, name)
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	return md.Get(name)
}

// fieldKeyer is nil where the request's type is not known.
func (l *Limiter) fieldKeyer(meta *interceptors.CallMeta, text string) keyer {
	if meta.Descriptor == nil {
		return nil
	}
	path, err := interceptors.FieldPath(meta.Descriptor.Input(), text)
	if err != nil {
		return nil
	}
	return func(_ context.Context, req any) key {
		if message, ok := req.(proto.Message); ok {
			return l.table.seeds.hashField(message.ProtoReflect(), path)
		}
		return key{}
	}
}

// hashField takes a field that is absent for one without a value.
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
		if field.Kind() == protoreflect.StringKind && !field.IsList() {
			return s.hash(m.Get(field).String())
		}
		return s.hashLeaf(m, field)
	}
	return key{}
}

// hashLeaf takes the bytes of a message that has field and nothing else.
func (s *seeds) hashLeaf(m protoreflect.Message, field protoreflect.FieldDescriptor) key {
	only := m.New()
	only.Set(field, m.Get(field))
	bytes, _ := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(only.Interface())
	return s.hashBytes(bytes)
}
