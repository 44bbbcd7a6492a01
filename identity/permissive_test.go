package identity_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// Case I12: In permissive mode a plaintext caller has no identity, whatever its metadata says.
func TestAPlaintextCallerHasNoIdentity(t *testing.T) {
	authority := certtest.New(t)
	everyone := netip.MustParsePrefix("127.0.0.0/8")
	for name, opts := range map[string][]caller.Option{
		"certificate":       nil,
		"metadata":          {caller.WithIdentityMetadata("user")},
		"function":          {caller.WithIdentity(func(context.Context) (string, bool) { return "alice", true })},
		"forwarded subject": {caller.WithForwardedSubject(), caller.WithTrustedPrefixes(everyone)},
		"trust":             {caller.WithForwardedSubject(), caller.WithTrusted(func(context.Context) bool { return true })},
	} {
		t.Run(name, func(t *testing.T) {
			callers, err := caller.New(opts...)
			if err != nil {
				t.Fatal(err)
			}
			log := &logged{}
			mine := of(t, authority, "catalog", identity.WithPermissive(), identity.WithLogger(log.logger()))
			s := serve(t, mine)
			s.callers = callers
			ctx := metadata.AppendToOutgoingContext(t.Context(), "user", "alice", caller.SubjectKey, "alice", "x-forwarded-client-cert", "URI="+good)
			if _, err := dial(t, s, insecure.NewCredentials()).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
			if got := s.lastCaller(); got != "" {
				t.Errorf("a plaintext caller is %q", got)
			}
			stats := mine.Stats().Plaintext
			if stats.Open != 1 || stats.Connections != 1 || len(stats.Callers) != 1 || stats.Callers[0].Address != "127.0.0.1" || stats.Callers[0].Open != 1 {
				t.Errorf("plaintext callers: %+v", stats)
			}
			if !strings.Contains(log.String(), "peer=127.0.0.1") {
				t.Errorf("the log does not say who: %s", log)
			}
			if _, err := dial(t, s, of(t, authority, "storefront")).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
			if got := s.lastCaller(); got == "" {
				t.Error("a caller with mutual TLS on the same port has no identity")
			}
		})
	}
}

func TestWithoutPermissivePlaintextIsRefused(t *testing.T) {
	mine := of(t, certtest.New(t), "catalog")
	s := serve(t, mine)
	if err := check(t, dial(t, s, insecure.NewCredentials())); err == nil || s.calls.Load() != 0 {
		t.Errorf("plaintext gets %v, and %d calls ran", err, s.calls.Load())
	}
	eventually(t, "the refusal is counted", func() bool { return mine.Stats().Refused[identity.SpeaksPlaintext] > 0 })
}

// Plaintext callers are counted in bounded memory.
func TestPlaintextCallersAreBounded(t *testing.T) {
	mine := of(t, certtest.New(t), "catalog", identity.WithPermissive())
	for i := range 1000 {
		from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		near, far := net.Pipe()
		go func() { _, _ = far.Write([]byte("PRI")) }()
		conn, info, err := mine.ServerHandshake(addressed{near, net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 1))})
		if err != nil || info.AuthType() != "insecure" {
			t.Fatal(err)
		}
		conn.Close()
		far.Close()
	}
	stats := mine.Stats().Plaintext
	if stats.Open != 0 || stats.Connections != 1000 || len(stats.Callers) != 256 || stats.Callers[0].Open != 0 {
		t.Errorf("open %d, connections %d, callers %d", stats.Open, stats.Connections, len(stats.Callers))
	}
}

type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }
