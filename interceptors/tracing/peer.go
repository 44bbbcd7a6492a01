package tracing

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"google.golang.org/grpc/peer"
)

// serverOf is what a target names: the service of "consul:///catalog?tag=a", the host
// and port of "dns:///host:50051".
func serverOf(target string) []attribute.KeyValue {
	if _, rest, found := strings.Cut(target, "://"); found {
		_, target, _ = strings.Cut(rest, "/")
	}
	target, _, _ = strings.Cut(target, "?")
	target = target[strings.LastIndex(target, "@")+1:] // a span is no place for user information
	if host, text, err := net.SplitHostPort(target); err == nil {
		if port, err := strconv.ParseUint(text, 10, 16); err == nil {
			return []attribute.KeyValue{semconv.ServerAddress(cut(host)), semconv.ServerPort(int(port))}
		}
	}
	return []attribute.KeyValue{semconv.ServerAddress(cut(target))}
}

// peerAt is who is at the other end of a connection.
func peerAt(address string) []attribute.KeyValue {
	if at, err := netip.ParseAddrPort(address); err == nil {
		return []attribute.KeyValue{semconv.NetworkPeerAddress(at.Addr().String()), semconv.NetworkPeerPort(int(at.Port()))}
	}
	return []attribute.KeyValue{semconv.NetworkPeerAddress(cut(address))}
}

// peerOf is who calls.
func peerOf(ctx context.Context) []attribute.KeyValue {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return peerAt(p.Addr.String())
	}
	return nil
}
