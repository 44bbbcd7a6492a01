package caller

import (
	"context"
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
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return certificate{}
	}
	return certificate{tls.State.PeerCertificates[0], tls.SPIFFEID}
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
