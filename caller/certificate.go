package caller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash/maphash"
	"net/url"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Verified is what the verified certificate of the peer proves: its SPIFFE id, or else its
// subject and DNS names.
func Verified(ctx context.Context) (identity string, ok bool) {
	c := certificateOf(ctx)
	return c.identity(), c.leaf != nil
}

// VerifiedTLS is [Verified] for a connection that gRPC does not serve, such as an HTTP
// server's. Nil is one without TLS.
func VerifiedTLS(state *tls.ConnectionState) (identity string, ok bool) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return "", false
	}
	leaf := state.PeerCertificates[0]
	return certificate{leaf, spiffeOf(leaf)}.identity(), true
}

// spiffeOf is nil unless the only URI of leaf is a SPIFFE id, as gRPC reads it.
func spiffeOf(leaf *x509.Certificate) *url.URL {
	if len(leaf.URIs) != 1 {
		return nil
	}
	id := leaf.URIs[0]
	switch {
	case id.Scheme != "spiffe" || id.Opaque != "" || id.User.Username() != "":
		return nil
	case len(id.String()) > 2048 || id.Host == "" || len(id.Host) > 255 || id.Path == "":
		return nil
	default:
		return id
	}
}

// certificate is a verified one. Without a leaf there is none.
type certificate struct {
	leaf   *x509.Certificate
	spiffe *url.URL
}

func certificateOf(ctx context.Context) certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return certificate{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return certificate{}
	}
	return certificate{info.State.PeerCertificates[0], info.SPIFFEID}
}

func (c certificate) identity() string {
	switch {
	case c.leaf == nil:
		return ""
	case c.spiffe != nil:
		return c.spiffe.String()
	default:
		// Quoted, no name can pass for another or for a SPIFFE id.
		return fmt.Sprintf("subject %q names %q", c.leaf.Subject, c.leaf.DNSNames)
	}
}

// identities are those of up to 256 certificates of late: writing one out takes several
// allocations, and a connection shows the same certificate in every call.
type identities struct {
	kept [256]atomic.Pointer[identified]
}

var seed = maphash.MakeSeed()

type identified struct {
	certificate
	identity string
}

// of is the identity that the certificate of the peer proves, "" without one.
func (i *identities) of(ctx context.Context) string {
	c := certificateOf(ctx)
	if c.leaf == nil {
		return ""
	}
	slot := &i.kept[maphash.Comparable(seed, c)%uint64(len(i.kept))]
	if kept := slot.Load(); kept != nil && kept.certificate == c {
		return kept.identity
	}
	fresh := &identified{c, c.identity()}
	slot.Store(fresh)
	return fresh.identity
}
