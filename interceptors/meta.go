package interceptors

import (
	"context"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/caller"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Side is the end of the wire where a chain runs.
type Side uint8

// The two ends of the wire.
const (
	Client Side = iota + 1
	Server
)

// String is "client" or "server".
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

// On reports whether a rule is applied on s: its side is rule, or preset if it names none.
func (s Side) On(rule policyv1.Side, preset Side) bool {
	switch rule {
	case policyv1.Side_SIDE_CLIENT:
		return s == Client
	case policyv1.Side_SIDE_SERVER:
		return s == Server
	case policyv1.Side_SIDE_BOTH:
		return true
	default:
		return s == preset
	}
}

// CallMeta describes the calls of one method: its name, contract and policy. One value
// serves all calls of the method and must not be changed.
type CallMeta struct {
	Side       Side
	FullMethod string // "/sweetshop.catalog.v1.CatalogService/GetSweet"
	Service    string // "sweetshop.catalog.v1.CatalogService"
	Method     string // "GetSweet"

	// Descriptor is the method in the contract, nil when this program is neither linked
	// with the generated code of it nor has read it, see [Contracts].
	Descriptor protoreflect.MethodDescriptor
	// Policy is what contract, Go options and operator agree on. Never nil.
	Policy *policyv1.MethodPolicy
}

// Cacheable reports whether a response may be served again: the contract marks the
// method idempotency_level = NO_SIDE_EFFECTS, or the cache rule allows others.
func (m *CallMeta) Cacheable() bool { return m.Safe() || m.Policy.GetCache().GetAllowSideEffects() }

// cached reports whether responses are cached.
func (m *CallMeta) cached() bool {
	ttl, err := ParseDuration(m.Policy.GetCache().GetTtl())
	return err == nil && ttl > 0 && m.Cacheable()
}

// Safe reports whether the contract marks the method idempotency_level = NO_SIDE_EFFECTS.
func (m *CallMeta) Safe() bool {
	return m.idempotency() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// Retryable reports whether a call may run twice: the contract marks the method
// IDEMPOTENT or NO_SIDE_EFFECTS, or the retry rule allows others.
func (m *CallMeta) Retryable() bool {
	return m.idempotency() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN || m.Policy.GetRetry().GetAllowSideEffects()
}

func (m *CallMeta) idempotency() descriptorpb.MethodOptions_IdempotencyLevel {
	if m.Descriptor == nil {
		return descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
	}
	options, _ := m.Descriptor.Options().(*descriptorpb.MethodOptions)
	return options.GetIdempotencyLevel()
}

// Infrastructure reports whether gRPC itself defines service: health, reflection,
// channelz and ORCA, and nothing else. Their calls are exempt from defaults, limits and
// traces. A user's own package may be named grpc too, so no prefix decides it.
func Infrastructure(service string) bool {
	switch service {
	case "grpc.health.v1.Health",
		"grpc.reflection.v1.ServerReflection",
		"grpc.reflection.v1alpha.ServerReflection",
		"grpc.channelz.v1.Channelz",
		"xds.service.orca.v3.OpenRcaService":
		return true
	}
	return false
}

// MetadataValue returns the value of a metadata key that a policy names, incoming on the
// server and outgoing on the client, by the rule of [caller.Value].
func MetadataValue(ctx context.Context, side Side, key string) (string, error) {
	return caller.Value(MetadataValues(ctx, side, key), key)
}

// MetadataValues returns all values of a metadata key in order, for keys that are lists,
// such as those of vary.
func MetadataValues(ctx context.Context, side Side, key string) []string {
	if side == Server {
		return metadata.ValueFromIncomingContext(ctx, key)
	}
	return metadata.ValueFromOutgoingContext(ctx, key)
}
