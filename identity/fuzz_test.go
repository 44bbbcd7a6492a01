package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// fixedAuthority signs by a key that all processes of a fuzzing have: what one of them has
// found is of the same authority to the others.
type fixedAuthority struct {
	certificate *x509.Certificate
	key         ed25519.PrivateKey
}

func fixedKey(name string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte((name + "................................")[:ed25519.SeedSize]))
}

func newFixedAuthority(f *testing.F, name string) *fixedAuthority {
	a := &fixedAuthority{key: fixedKey(name)}
	a.certificate = a.sign(f, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.key)
	return a
}

// issue signs the key of a service, for a hundred years.
func (a *fixedAuthority) issue(f *testing.F, key ed25519.PrivateKey, change func(*x509.Certificate), uris ...string) tls.Certificate {
	template := certtest.IDTemplate(f, time.Hour, uris...)
	template.NotBefore, template.NotAfter = time.Time{}, time.Time{}
	change(template)
	leaf := a.sign(f, template, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *fixedAuthority) sign(f *testing.F, template *x509.Certificate, key ed25519.PrivateKey) *x509.Certificate {
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Unix(0, 0), time.Unix(1<<32, 0)
	}
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), a.key)
	if err != nil {
		f.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	return certificate
}

// Whatever bytes are taken for a certificate chain, nothing panics, and what is accepted is a chain
// from a root to the right id.
func FuzzCertificateChain(f *testing.F) {
	authority, other := newFixedAuthority(f, "authority"), newFixedAuthority(f, "other")
	between := &fixedAuthority{key: fixedKey("between")}
	between.certificate = authority.sign(f, &x509.Certificate{Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, between.key)
	key, same := fixedKey("catalog"), func(*x509.Certificate) {}
	leaf := authority.issue(f, key, same, good)
	f.Add(leaf.Certificate[0], []byte(nil))
	f.Add(leaf.Certificate[0], authority.certificate.Raw)
	f.Add(authority.certificate.Raw, leaf.Certificate[0])
	f.Add(between.issue(f, key, same, good).Certificate[0], between.certificate.Raw)
	f.Add(other.issue(f, key, same, good).Certificate[0], other.certificate.Raw)
	f.Add(authority.issue(f, key, func(c *x509.Certificate) { c.NotAfter = time.Unix(1<<30, 0) }, good).Certificate[0], leaf.Certificate[0])
	f.Add(authority.issue(f, key, func(c *x509.Certificate) { c.ExtKeyUsage = nil }, good).Certificate[0], []byte(nil))
	f.Add(authority.issue(f, key, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, good).Certificate[0], []byte(nil))
	f.Add(authority.issue(f, key, same, good, good).Certificate[0], []byte{0x30})
	own, err := identity.NewSnapshot(leaf, []*x509.Certificate{authority.certificate})
	if err != nil {
		f.Fatal(err)
	}
	signed := func(c *x509.Certificate) bool {
		return c.CheckSignatureFrom(authority.certificate) == nil || c.CheckSignatureFrom(between.certificate) == nil
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		pair := tls.Certificate{Certificate: [][]byte{first}, PrivateKey: key}
		if len(second) > 0 {
			pair.Certificate = append(pair.Certificate, second)
		}
		for form, make := range map[string]func(tls.Certificate, []*x509.Certificate) (*identity.Snapshot, error){
			"Consul": identity.NewSnapshot, "SPIFFE": identity.NewSPIFFESnapshot,
		} {
			s, err := make(pair, []*x509.Certificate{authority.certificate})
			if err != nil {
				continue
			}
			if public, ok := s.Leaf().PublicKey.(ed25519.PublicKey); !ok || !bytes.Equal(public, key.Public().(ed25519.PublicKey)) || !signed(s.Leaf()) || s.ID() != idOf("catalog") {
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
		if !signed(chain[0]) || id != idOf("catalog") || time.Now().After(chain[0].NotAfter) {
			t.Errorf("a chain of %v is accepted", id)
		}
	})
}
