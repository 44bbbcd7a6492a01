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
)

const (
	requestTimeout = 10 * time.Second
	minBackoff     = 500 * time.Millisecond
	maxBackoff     = 15 * time.Second
	// rootSpread is the time over which processes renew when another root signs, or after an outage.
	rootSpread = 30 * time.Second
	// unhurried is how much of a leaf must be left for a failed renewal to wait for rootSpread.
	unhurried = 10 * time.Minute
)

func backoff(failures int) time.Duration {
	longest := min(minBackoff<<min(failures, 10), maxBackoff)
	return minBackoff + random.N(longest)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// renewal is the state of renew's goroutine.
type renewal struct {
	*Source
	outage  outage
	roots   *authority
	leaf    *tls.Certificate
	overdue bool // it was logged for this leaf
	timer   *time.Timer
	at      time.Time // when timer fires
}

// renew asks for a leaf when the first roots are there, before its end, and when another root
// has become the active one.
func (s *Source) renew(ctx context.Context) {
	r := &renewal{Source: s, outage: outage{log: s.log.With("of", "leaf")}, timer: time.NewTimer(0)}
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
func (r *renewal) within(d time.Duration) {
	if at := time.Now().Add(d); r.at.IsZero() || at.Before(r.at) {
		r.at = at
		r.timer.Reset(d)
	}
}

func (r *renewal) adopt(roots *authority) {
	last := r.roots
	r.roots = roots
	switch {
	case last == nil:
		r.within(0)
	case last.trustDomain != roots.trustDomain:
		r.log.Error("Consul has another CA: processes with a certificate of the old one are refused until they have read theirs",
			"trust_domain", roots.trustDomain, "before", last.trustDomain)
		r.within(random.N(rootSpread / 2))
		return // the leaf is of the old CA
	case last.active != roots.active:
		r.within(random.N(rootSpread))
	}
	if err := r.publish(); errors.As(err, new(identity.NotOfTheRootsError)) {
		r.within(random.N(rootSpread / 2))
	} else if err != nil {
		r.outage.record(r.Source, err)
	}
}

// replaceLeaf asks once, and plans the next time.
func (r *renewal) replaceLeaf(ctx context.Context) {
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
	r.outage.record(r.Source, err)
	if err != nil {
		r.warnOverdue()
		r.within(r.retryIn())
		return
	}
	r.overdue = false
	left := time.Until(leaf.Leaf.NotAfter)
	r.within(max(time.Duration(float64(left)*(0.6+0.3*random.Float64())), minBackoff))
}

func (r *renewal) readRootsAgain() {
	select {
	case r.reread <- struct{}{}:
	default:
	}
}

// retryIn is when to ask again after failures.
func (r *renewal) retryIn() time.Duration {
	if r.leaf != nil && time.Until(r.leaf.Leaf.NotAfter) > unhurried {
		return minBackoff + random.N(rootSpread)
	}
	return backoff(r.outage.failures)
}

// warnOverdue logs once for each leaf that should have been renewed.
func (r *renewal) warnOverdue() {
	current, err := r.Current()
	if err != nil || r.overdue || !current.IsOverdue(time.Now()) {
		return
	}
	r.overdue = true
	end := current.Leaf().NotAfter
	r.log.Error("Consul does not renew the certificate: see the log of its servers", "valid_until", end, "left", time.Until(end).Round(time.Second).String())
}

// publish makes a snapshot of the latest leaf and roots, if they have changed.
func (r *renewal) publish() error {
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
