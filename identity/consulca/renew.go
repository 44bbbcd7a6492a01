package consulca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	random "math/rand/v2"
	"net/url"
	"time"

	"github.com/hashicorp/consul/proto-public/pbconnectca"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/renewal"
)

const requestTimeout = 10 * time.Second

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// renewing is the state of renew's goroutine.
type renewing struct {
	*Source
	*renewal.Attempts
	roots *authority
	leaf  *tls.Certificate
	timer *time.Timer
	at    time.Time // when timer fires
}

// renew asks for a leaf when the first roots are there, before its end, and when another root
// has become the active one.
func (s *Source) renew(ctx context.Context) {
	r := &renewing{Source: s, Attempts: s.attempts("leaf"), timer: time.NewTimer(0)}
	r.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			r.timer.Stop()
			return
		case roots := <-s.roots:
			r.adopt(roots)
		case <-r.timer.C:
			r.at = time.Time{}
			r.replaceLeaf(ctx)
		}
	}
}

// within renews in d, or earlier if it was to be.
func (r *renewing) within(d time.Duration) {
	if at := time.Now().Add(d); r.at.IsZero() || at.Before(r.at) {
		r.at = at
		r.timer.Reset(d)
	}
}

func (r *renewing) adopt(roots *authority) {
	last := r.roots
	r.roots = roots
	switch {
	case last == nil:
		r.within(0)
	case last.trustDomain != roots.trustDomain:
		r.log.Error("Consul has another CA: processes with a certificate of the old one are refused until they have read theirs",
			"trust_domain", roots.trustDomain, "before", last.trustDomain)
		r.within(random.N(renewal.Spread / 2))
		return // the leaf is of the old CA
	case last.active != roots.active:
		r.within(random.N(renewal.Spread))
	}
	if err := r.publish(); errors.As(err, new(identity.NotOfTheRootsError)) {
		r.within(random.N(renewal.Spread / 2))
	} else if err != nil {
		r.Record(err)
	}
}

// replaceLeaf asks once, and plans the next time.
func (r *renewing) replaceLeaf(ctx context.Context) {
	leaf, err := r.sign(ctx, r.id(r.roots))
	if err == nil {
		before := r.leaf
		r.leaf = leaf
		if err = r.publish(); err != nil {
			r.leaf = before
		}
		if errors.As(err, new(identity.NotOfTheRootsError)) {
			r.readRootsAgain() // the stream may be of a server that is gone
		}
	}
	if ctx.Err() != nil {
		return
	}
	r.Record(err)
	if err != nil {
		r.Overdue()
		r.within(r.LeafPause())
		return
	}
	left := time.Until(leaf.Leaf.NotAfter)
	r.within(max(time.Duration(float64(left)*(0.6+0.3*random.Float64())), time.Second))
}

func (r *renewing) readRootsAgain() {
	select {
	case r.reread <- struct{}{}:
	default:
	}
}

// publish makes a snapshot of the latest leaf and roots, if they have changed.
func (r *renewing) publish() error {
	if r.leaf == nil {
		return nil
	}
	next, err := identity.NewSnapshot(*r.leaf, r.roots.roots)
	switch {
	case err != nil:
		return fmt.Errorf("consulca: %w", err)
	case next.ID() != r.id(r.roots):
		return fmt.Errorf("consulca: the certificate is of %q: want one of %q", next.ID(), r.id(r.roots))
	}
	if last, err := r.Current(); err != nil || !last.Equal(next) {
		r.Publish(next)
	}
	return nil
}

// sign has a new key signed.
func (s *Source) sign(ctx context.Context, id identity.ID) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("consulca: %w", err)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, fmt.Errorf("consulca: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, fmt.Errorf("consulca: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := s.client.Sign(s.authorized(ctx), &pbconnectca.SignRequest{
		Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
	})
	if err != nil {
		return nil, explain("a leaf", err)
	}
	// The leaf comes with what is between it and the root.
	chain, err := identity.RootsFromPEM([]byte(answer.GetCertPem()))
	if err != nil {
		return nil, fmt.Errorf("consulca: the answer to a certificate request: %w", err)
	}
	leaf := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, certificate := range chain {
		leaf.Certificate = append(leaf.Certificate, certificate.Raw)
	}
	return leaf, nil
}
