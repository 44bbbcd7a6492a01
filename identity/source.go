package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Source publishes the certificates of a process. It is safe for concurrent use.
type Source interface {
	// Current returns the latest certificates, or why there are none yet.
	Current() (*Snapshot, error)
	// Next waits until the latest certificates are others than last, which may be nil. Its
	// error is that of ctx.
	Next(ctx context.Context, last *Snapshot) (*Snapshot, error)
}

// Snapshot is one set of certificates. It is immutable.
type Snapshot struct {
	leaf  tls.Certificate
	roots []*x509.Certificate
	pool  *x509.CertPool
	id    ID
	// anyForm accepts ids in other forms than Consul's.
	anyForm bool
	own     [][]*x509.Certificate // chains of the leaf
}

// NewSnapshot checks that leaf, with its chain and key, is of one service, and that one of
// roots signed it. It does not check whether it has ended, which changes with time. Its id and
// those of the other ends must have Consul's form.
func NewSnapshot(leaf tls.Certificate, roots []*x509.Certificate) (*Snapshot, error) {
	return newSnapshot(leaf, roots, false)
}

// NewSPIFFESnapshot is [NewSnapshot] for an authority whose ids have any form of the SPIFFE
// standard. Clients need [WithServerIDs], since no target says which id its server has.
func NewSPIFFESnapshot(leaf tls.Certificate, roots []*x509.Certificate) (*Snapshot, error) {
	return newSnapshot(leaf, roots, true)
}

func newSnapshot(leaf tls.Certificate, roots []*x509.Certificate, anyForm bool) (*Snapshot, error) {
	if len(leaf.Certificate) == 0 {
		return nil, errors.New("identity: there is no certificate")
	}
	chain := make([]*x509.Certificate, 0, len(leaf.Certificate))
	for _, der := range leaf.Certificate {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("identity: the certificate: %w", err)
		}
		chain = append(chain, certificate)
	}
	leaf.Leaf = chain[0]
	key, ok := leaf.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("identity: the certificate has no private key that signs")
	}
	if public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("identity: the private key is not that of the certificate")
	}
	id, err := idOf(chain[0], anyForm)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{leaf: leaf, roots: roots, pool: x509.NewCertPool(), id: id, anyForm: anyForm}
	for _, root := range roots {
		s.pool.AddCert(root)
	}
	at := time.Now()
	if at.After(chain[0].NotAfter) {
		at = chain[0].NotAfter
	}
	if at.Before(chain[0].NotBefore) {
		at = chain[0].NotBefore
	}
	if s.own, err = s.chains(chain, x509.ExtKeyUsageAny, at); err != nil {
		return nil, NotOfTheRootsError{fmt.Errorf("identity: the certificate of %v is not of the %d roots: %w", id, len(roots), err)}
	}
	return s, nil
}

// NotOfTheRootsError is the error of [NewSnapshot] for a leaf that none of the roots signed.
type NotOfTheRootsError struct{ error }

// Unwrap returns what crypto/x509 has found.
func (e NotOfTheRootsError) Unwrap() error { return e.error }

// Equal reports whether both have the same leaf and roots.
func (s *Snapshot) Equal(other *Snapshot) bool {
	return s.Leaf().Equal(other.Leaf()) && slices.EqualFunc(s.roots, other.roots, (*x509.Certificate).Equal)
}

// ID returns which service the leaf is of.
func (s *Snapshot) ID() ID { return s.id }

// Leaf returns the leaf certificate.
func (s *Snapshot) Leaf() *x509.Certificate { return s.leaf.Leaf }

// overduePart is the part of a leaf's life in which its renewal is overdue: Consul's agent, and
// sources of this module, renew at 60 % to 90 %.
const overduePart = 0.08

// IsOverdue reports whether the leaf should have been renewed before now.
func (s *Snapshot) IsOverdue(now time.Time) bool {
	leaf := s.Leaf()
	return float64(leaf.NotAfter.Sub(now)) <= overduePart*float64(leaf.NotAfter.Sub(leaf.NotBefore))
}

// Roots returns the trusted authorities, which must not be changed.
func (s *Snapshot) Roots() []*x509.Certificate { return s.roots }

// SignedBy reports whether a chain of the leaf ends with root, whatever the time.
func (s *Snapshot) SignedBy(root *x509.Certificate) bool {
	for _, chain := range s.own {
		if chain[len(chain)-1].Equal(root) {
			return true
		}
	}
	return false
}

// trusts reports whether root is one of the roots.
func (s *Snapshot) trusts(root *x509.Certificate) bool {
	for _, r := range s.roots {
		if r.Equal(root) {
			return true
		}
	}
	return false
}

// chains returns how a root has signed a certificate that came with others.
func (s *Snapshot) chains(certificates []*x509.Certificate, usage x509.ExtKeyUsage, at time.Time) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, c := range certificates[1:] {
		between.AddCert(c)
	}
	return certificates[0].Verify(x509.VerifyOptions{Roots: s.pool, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
}

// Feed is a Source of the snapshots that a program publishes. The zero value is ready.
type Feed struct {
	mu      sync.Mutex
	current *Snapshot
	err     error
	changed chan struct{} // closed with the next one; nil if nobody waits
	counts  SourceStats
}

var _ Source = (*Feed)(nil)

// Publish replaces the snapshot.
func (f *Feed) Publish(s *Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current, f.err = s, nil
	f.counts.Published++
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// Fail records an attempt that failed, and why there is no snapshot yet. A snapshot that was
// published stays.
func (f *Feed) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.counts.Failed++
}

// SourceStats returns how often Publish and Fail were called.
func (f *Feed) SourceStats() SourceStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// Current implements Source.
func (f *Feed) Current() (*Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.current != nil:
		return f.current, nil
	case f.err != nil:
		return nil, f.err
	default:
		return nil, errors.New("identity: no certificate has been published yet")
	}
}

// Next implements Source.
func (f *Feed) Next(ctx context.Context, last *Snapshot) (*Snapshot, error) {
	for {
		f.mu.Lock()
		if f.current != nil && f.current != last {
			defer f.mu.Unlock()
			return f.current, nil
		}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
