package cache

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/meshlite-go/meshlite/interceptors"
)

// caller names who makes a call, if that is known.
func (r *rule) caller(values metadataValues) (string, bool) {
	switch {
	case r.options.identity != nil:
		return r.options.identity(values.ctx)
	case r.options.identityKey != nil:
		// Who has no name, or several, is given no answer that is kept.
		named, err := interceptors.MetadataValue(values.ctx, values.side, *r.options.identityKey)
		return named, named != "" && err == nil
	case r.meta.Side == interceptors.Server:
		return peerIdentity(values.ctx)
	default:
		return "", false
	}
}

// peerIdentity is the SPIFFE id of the peer's verified certificate, or else the
// hash of it.
func peerIdentity(ctx context.Context) (string, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return "", false
	}
	if tls.SPIFFEID != nil {
		return tls.SPIFFEID.String(), true
	}
	hash := sha256.Sum256(tls.State.PeerCertificates[0].Raw)
	return string(hash[:]), true
}
