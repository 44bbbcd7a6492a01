package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// Whatever bytes are taken for a certificate chain, nothing panics, and what is accepted is a chain
// from a root to the right id.
func FuzzCertificateChain(f *testing.F) {
	authority := certtest.New(f)
	leaf := authority.IssueID(f, time.Hour, good)
	other := certtest.New(f)
	f.Add(leaf.Certificate[0], []byte(nil))
	f.Add(leaf.Certificate[0], authority.Certificate().Raw)
	f.Add(authority.Certificate().Raw, leaf.Certificate[0])
	f.Add(other.IssueID(f, time.Hour, good).Certificate[0], other.Certificate().Raw)
	f.Add(authority.IssueID(f, -time.Minute, good).Certificate[0], leaf.Certificate[0])
	f.Add(authority.IssueID(f, time.Hour, good, good).Certificate[0], []byte{0x30})
	own := snapshot(f, leaf, authority)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		pair := tls.Certificate{Certificate: [][]byte{first}, PrivateKey: leaf.PrivateKey}
		if len(second) > 0 {
			pair.Certificate = append(pair.Certificate, second)
		}
		for form, make := range map[string]func(tls.Certificate, []*x509.Certificate) (*identity.Snapshot, error){
			"Consul": identity.NewSnapshot, "SPIFFE": identity.NewSPIFFESnapshot,
		} {
			// Only the leaf has this key.
			if s, err := make(pair, []*x509.Certificate{authority.Certificate()}); err == nil && !s.Leaf().Equal(leaf.Leaf) {
				t.Errorf("%s: another certificate passes for the key's: %v", form, s.ID())
			}
		}
		var chain []*x509.Certificate
		for _, der := range pair.Certificate {
			certificate, err := x509.ParseCertificate(der)
			if err != nil {
				return
			}
			chain = append(chain, certificate)
		}
		id, err := own.Verify(chain)
		if err != nil {
			return
		}
		if signed := chain[0].CheckSignatureFrom(authority.Certificate()); signed != nil || id != idOf("catalog") || time.Now().After(chain[0].NotAfter) {
			t.Errorf("a chain of %v is accepted: %v", id, signed)
		}
	})
}
