// Package caller identifies who makes a call, and which peers are trusted: one meaning for
// caches, limits, concurrency and logs. Make one [Callers] and give it to the runtime of
// package meshlite, which passes it on, or to each of them:
//
//	callers, err := caller.New(caller.WithIdentityMetadata("customer-id"), caller.WithTrustedPrefixes(gateways))
//	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: callers})
//	answers, err := cache.New(cache.WithCallers(callers)) // for a cache of its own
//
// # Identity
//
// On a server the identity of a caller is what [WithIdentity] or [WithIdentityMetadata]
// declare, else what its verified certificate proves: the SPIFFE id, or else the subject
// and the DNS names, which stay the same when the certificate is renewed. On a client,
// which cannot see the credentials that a channel adds, it is what the options declare.
//
// Behind a gateway all callers have the gateway's certificate. With [WithForwardedSubject]
// the identity is the subject that a trusted gateway has verified and sends.
//
// A peer that a server with mutual TLS accepts in plaintext nevertheless, in the permissive
// mode of package identity, has no identity and is not trusted, whatever it says of itself.
//
// # Trust
//
// Claims of a caller in metadata (on whose behalf it calls, the cost and the priority of
// its call, cache directives, that it wants the call explained) are used only from a trusted peer, by its certificate
// ([WithTrustedIdentities]), its network ([WithTrustedPrefixes]) or a function ([WithTrusted]). By default no peer is trusted.
package caller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/meshlite-go/meshlite/internal/wire"
)

// SubjectKey is the metadata key of [WithForwardedSubject].
const SubjectKey = wire.SubjectKey

// Callers identifies callers and decides trust. It is immutable and safe for concurrent use; a nil *Callers has
// the defaults.
type Callers struct {
	identity func(context.Context) (string, bool)
	key      string // of metadata with the identity
	forwards bool   // trusted peers send the identity under SubjectKey
	prefixes prefixes
	trusted  func(context.Context) bool
	services []string   // trusted SPIFFE ids
	logged   bool       // what identity and key declare
	verified identities // of certificates, so that a call does not write its caller's out again
}

// Option changes what [New] makes.
type Option func(*settings)

type settings struct {
	Callers
	keyGiven bool
	errs     []error
}

// New checks opts.
func New(opts ...Option) (*Callers, error) {
	s := &settings{}
	for _, o := range opts {
		o(s)
	}
	if s.identity != nil && s.keyGiven {
		s.errs = append(s.errs, errors.New("WithIdentity and WithIdentityMetadata are both given: choose one"))
	}
	if err := errors.Join(s.errs...); err != nil {
		return nil, fmt.Errorf("caller: %w", err)
	}
	return &s.Callers, nil
}

// WithIdentity declares who makes a call. Callers who may be given different answers, or
// have limits of their own, need different identities; false is a caller without one. It is
// called up to three times a call, also concurrently, and must not block.
func WithIdentity(identity func(context.Context) (string, bool)) Option {
	return func(s *settings) {
		if identity == nil {
			s.errs = append(s.errs, errors.New("WithIdentity(nil): leave the option out"))
		}
		s.identity = identity
	}
}

// WithIdentityMetadata declares that a caller is who the value of a metadata key says:
// incoming on a server, where that is only as true as whoever sets it, outgoing on a client.
func WithIdentityMetadata(key string) Option {
	return func(s *settings) {
		if !ValidKey(key) {
			s.errs = append(s.errs, fmt.Errorf("WithIdentityMetadata: %q is not a metadata key: write lower case letters, digits and _-. only", key))
		}
		if key == SubjectKey {
			s.errs = append(s.errs, fmt.Errorf("WithIdentityMetadata: %q is believed only from trusted peers: use WithForwardedSubject", key))
		}
		s.key, s.keyGiven = key, true
	}
}

// WithLoggedIdentity shows the identities that an option declares, forwarded subjects included,
// in logs as they are. Without it, a hash stands for them: metadata may have an API
// key, and what a log has cannot be taken back.
func WithLoggedIdentity() Option {
	return func(s *settings) { s.logged = true }
}

// WithForwardedSubject takes the identity from metadata [SubjectKey], in which a gateway sends
// the subject that it has verified.
//
// On a server only trusted peers are believed ([WithTrustedIdentities] and the like). A
// trusted peer that sends no subject calls for nobody: it has no identity, in particular not
// that of its certificate, which all its anonymous users would share. What any other peer
// sends is ignored; its identity is what [WithIdentity] or [WithIdentityMetadata] declare, or
// else that of its certificate. Equal identities are one caller, whichever way they came.
//
// On a client, such as a gateway's channel, the identity is that key of the outgoing metadata
// and nothing else.
func WithForwardedSubject() Option {
	return func(s *settings) { s.forwards = true }
}

// WithTrustedPrefixes trusts peers by their network: the proxies in front of the server.
// Repeated, it adds.
func WithTrustedPrefixes(networks ...netip.Prefix) Option {
	return func(s *settings) {
		for _, network := range networks {
			if !network.IsValid() || network.Addr().Is4In6() {
				s.errs = append(s.errs, fmt.Errorf("WithTrustedPrefixes: %v is no network: write one such as 10.0.0.0/8 or fd00::/8", network))
			}
		}
		s.prefixes = append(s.prefixes, networks...)
	}
}

// WithTrusted trusts the callers for which trusted is true, by their certificate for
// instance, beside those of [WithTrustedPrefixes]. It is called at most once a call for
// each claim of the caller, also concurrently, and must not block.
func WithTrusted(trusted func(context.Context) bool) Option {
	return func(s *settings) {
		if trusted == nil {
			s.errs = append(s.errs, errors.New("WithTrusted(nil): leave the option out to trust nobody"))
		}
		s.trusted = trusted
	}
}

// WithTrustedIdentities trusts the peers whose verified certificates prove one of these SPIFFE
// ids: the gateways that speak for others. The trust domain may be *, any that the server's
// credentials verify: those of package identity verify their own alone. Repeated, it adds.
//
//	caller.WithTrustedIdentities("spiffe://*/ns/default/dc/dc1/svc/gateway")
func WithTrustedIdentities(ids ...string) Option {
	return func(s *settings) {
		for _, id := range ids {
			domain, path, ok := splitID(id)
			if !ok || domain == "" || path == "" || strings.Contains(path, "*") || domain != "*" && strings.Contains(domain, "*") {
				s.errs = append(s.errs, fmt.Errorf("WithTrustedIdentities: %q is no SPIFFE id: write one such as spiffe://DOMAIN/ns/default/dc/dc1/svc/gateway, with * for any domain", id))
			}
		}
		s.services = append(s.services, ids...)
	}
}

// splitID returns the trust domain and the path of a SPIFFE id.
func splitID(id string) (domain, path string, ok bool) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, _ = strings.Cut(rest, "/")
	return domain, path, ok
}

// proves reports whether the certificate of the peer is of one of the trusted services.
func (c *Callers) proves(ctx context.Context) bool {
	if len(c.services) == 0 {
		return false
	}
	proven := c.verified.of(ctx)
	_, path, ok := splitID(proven)
	for _, trusted := range c.services {
		domain, want, _ := splitID(trusted)
		if ok && (trusted == proven || domain == "*" && want == path) {
			return true
		}
	}
	return false
}

// Incoming is the identity of the caller whose call is served with ctx, "" if it has none.
// The error is INVALID_ARGUMENT for an identity in metadata that is ambiguous: see [Value].
func (c *Callers) Incoming(ctx context.Context) (string, error) {
	switch {
	case unidentified(ctx):
		return "", nil
	case c != nil && c.forwards && c.Trusted(ctx):
		return Value(metadata.ValueFromIncomingContext(ctx, SubjectKey), SubjectKey)
	case c != nil && c.identity != nil:
		return declared(c.identity(ctx))
	case c != nil && c.key != "":
		return Value(metadata.ValueFromIncomingContext(ctx, c.key), c.key)
	case c != nil:
		return c.verified.of(ctx), nil
	default:
		identity, _ := Verified(ctx)
		return identity, nil
	}
}

// Outgoing is the identity on whose behalf a call is made with ctx, "" if none is declared.
// Its error is that of Incoming.
func (c *Callers) Outgoing(ctx context.Context) (string, error) {
	switch {
	case c != nil && c.forwards:
		return Value(metadata.ValueFromOutgoingContext(ctx, SubjectKey), SubjectKey)
	case c != nil && c.identity != nil:
		return declared(c.identity(ctx))
	case c != nil && c.key != "":
		return Value(metadata.ValueFromOutgoingContext(ctx, c.key), c.key)
	default:
		return "", nil
	}
}

func declared(identity string, ok bool) (string, error) {
	if !ok {
		return "", nil
	}
	return identity, nil
}

// Source is where identities come from, for messages: "function", "metadata KEY",
// "certificate", or "forwarded subject or metadata KEY" where both are declared. Calls that a
// client makes with equal values of the KEY in "metadata KEY" have one identity.
func (c *Callers) Source() string {
	switch {
	case c != nil && c.forwards && c.key != "":
		return "forwarded subject or metadata " + c.key
	case c != nil && c.forwards && c.identity == nil:
		return "metadata " + SubjectKey
	case c != nil && c.identity != nil:
		return "function"
	case c != nil && c.key != "":
		return "metadata " + c.key
	default:
		return "certificate"
	}
}

// Declares reports whether an option declares the identity, so that a client has one too.
func (c *Callers) Declares() bool {
	return c != nil && (c.identity != nil || c.key != "" || c.forwards)
}

// Trusted reports whether the caller's claims in metadata are used.
func (c *Callers) Trusted(ctx context.Context) bool {
	if c == nil || unidentified(ctx) {
		return false
	}
	return c.prefixes.peer(ctx) || c.proves(ctx) || c.trusted != nil && c.trusted(ctx)
}

// unidentified reports whether the peer of ctx was let in without the certificate that others
// need. Its AuthInfo says so: see Plaintext of package identity.
func unidentified(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	_, is := p.AuthInfo.(interface{ Unidentified() })
	return is
}

// ValidKey reports whether key is one of gRPC's metadata, in lower case.
func ValidKey(key string) bool {
	return key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789_-.") == ""
}
