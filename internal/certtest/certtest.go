// Package certtest issues certificates for tests: a private authority, good for a year, and
// what it signs for names and addresses, good for an hour.
//
//	authority := certtest.New(t)
//	server := &tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "catalog")}}
//	client := &tls.Config{RootCAs: authority.Roots}
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	Roots *x509.CertPool // the authority alone
	PEM   []byte         // its certificate

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// New makes an authority that nobody trusts yet.
func New(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// NewAuthority is New for a TestMain.
func NewAuthority() (*Authority, error) {
	certificate, key, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "certtest"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}, nil, nil)
	if err != nil {
		return nil, err
	}
	a := &Authority{Roots: x509.NewCertPool(), certificate: certificate, key: key}
	a.Roots.AddCert(certificate)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	return a, nil
}

// Issue signs a certificate, of a server or a client, for DNS names and IP addresses.
func (a *Authority) Issue(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return a.Sign(t, template)
}

// IssueID signs a certificate, of a server or a client, whose alternative names are these
// URIs as they are, and nothing else. It is good from an hour ago until life has passed,
// which may be negative.
func (a *Authority) IssueID(t testing.TB, life time.Duration, uris ...string) tls.Certificate {
	t.Helper()
	return a.Sign(t, IDTemplate(t, life, uris...))
}

// IDTemplate is what IssueID signs.
func IDTemplate(t testing.TB, life time.Duration, uris ...string) *x509.Certificate {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
	}
	if len(uris) > 0 {
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
	return template
}

// Sign signs a template with a new key. Without times it is good for an hour.
func (a *Authority) Sign(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	leaf, key, err := sign(template, a.certificate, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// SignKey signs a template with a public key that another has the private one of.
func (a *Authority) SignKey(template *x509.Certificate, key any) (*x509.Certificate, error) {
	return signKey(template, key, a.certificate, a.key)
}

// SelfSigned signs a template with its own key.
func SelfSigned(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	leaf, key, err := sign(template, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// Certificate is that of the authority.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// sign makes a certificate of template with a new key; without a parent it signs itself.
func sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, by = template, key
	}
	certificate, err := signKey(template, &key.PublicKey, parent, by)
	return certificate, key, err
}

func signKey(template *x509.Certificate, key any, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
