package consultest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Consul's own times: a leaf is good for 72 h and renewed between 60 % and 90 % of them, and
// a change of roots is spread over 30 s.
const (
	defaultLeafTTL = 72 * time.Hour
	renewFrom      = 0.6
	renewUntil     = 0.9
	rootsSpread    = 30 * time.Second
	backdated      = time.Minute
	rootLife       = 10 * 365 * 24 * time.Hour
)

// WithLeafTTL sets how long certificates of services are good, as the LeafCertTTL of
// Consul's CA does. Without it they are good for 72 h.
func WithLeafTTL(ttl time.Duration) Option {
	return func(c *config) { c.leafTTL = ttl }
}

// authority is the CA of the datacenter, made when it is first needed.
type authority struct {
	trustDomain string
	roots       []*caRoot // the last one signs
	index       uint64
	serial      int64
	leaves      map[string]*leaf // by service
	signed      []time.Time
}

type caRoot struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	index       uint64
}

type leaf struct {
	answer leafAnswer
	root   *caRoot
	due    time.Time // to be signed again
}

// leafAnswer is the body of /v1/agent/connect/ca/leaf/.
type leafAnswer struct {
	SerialNumber, CertPEM, PrivateKeyPEM, Service, ServiceURI string
	ValidAfter, ValidBefore                                   time.Time
	CreateIndex, ModifyIndex                                  uint64
}

// rootAnswer is one root of /v1/agent/connect/ca/roots.
type rootAnswer struct {
	ID, Name                 string
	SerialNumber             uint64
	ExternalTrustDomain      string
	NotBefore, NotAfter      time.Time
	RootCert                 string
	IntermediateCerts        []string
	Active                   bool
	PrivateKeyType           string
	PrivateKeyBits           int
	CreateIndex, ModifyIndex uint64
}

// RotateCA makes a new root that signs from now on. The old ones stay trusted until
// [Server.DropOldRoots]. Leaves are signed again within 30 s.
func (s *Server) RotateCA() { s.changeCA(func(a *authority) { s.addRoot(a) }) }

// DropOldRoots leaves the signing root alone.
func (s *Server) DropOldRoots() {
	s.changeCA(func(a *authority) {
		a.roots = slices.Clone(a.roots[len(a.roots)-1:])
	})
}

// ReplaceCA makes another CA with another trust domain, as of an agent in dev mode that was
// started anew. All leaves are lost.
func (s *Server) ReplaceCA() {
	s.changeCA(func(a *authority) {
		a.trustDomain, a.roots, a.leaves = newTrustDomain(), nil, map[string]*leaf{}
		s.addRoot(a)
	})
}

// Signed returns when the CA has signed a leaf, oldest first, up to some ten thousand times.
func (s *Server) Signed() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ca.signed)
}

func (s *Server) changeCA(change func(*authority)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.authority()
	change(a)
	a.index = s.st.next()
	now := time.Now()
	for _, l := range a.leaves {
		if l.root != a.roots[len(a.roots)-1] {
			l.due = now.Add(mathrand.N(rootsSpread))
		}
	}
	s.st.wake()
}

// authority returns the CA. The caller holds s.mu, as for all below.
func (s *registry) authority() *authority {
	if s.ca.roots == nil {
		s.ca.trustDomain, s.ca.leaves = newTrustDomain(), map[string]*leaf{}
		s.addRoot(&s.ca)
		s.ca.index = s.st.next()
	}
	return &s.ca
}

func newTrustDomain() string { return uuidOf("trust domain "+rand.Text()) + ".consul" }

func (s *registry) addRoot(a *authority) {
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: fmt.Sprintf("pri-%d.consul.ca.%s", a.serial, a.trustDomain)},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: a.trustDomain}},
		NotBefore: time.Now().Add(-backdated), NotAfter: time.Now().Add(rootLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	certificate, key := sign(template, nil, nil)
	a.roots = append(a.roots, &caRoot{certificate, key, s.st.index + 1})
}

// sign panics where only the random source could fail.
func sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return certificate, key
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// leafOf returns the leaf of a service, signed again if it is due.
func (s *registry) leafOf(service string) *leaf {
	a := s.authority()
	now := time.Now()
	if l := a.leaves[service]; l != nil && now.Before(l.due) {
		return l
	}
	ttl := s.leafTTL
	if ttl == 0 {
		ttl = defaultLeafTTL
	}
	root := a.roots[len(a.roots)-1]
	a.serial++
	uri := &url.URL{Scheme: "spiffe", Host: a.trustDomain, Path: "/ns/default/dc/" + s.datacenter + "/svc/" + service}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), URIs: []*url.URL{uri}, NotBefore: now.Add(-backdated), NotAfter: now.Add(ttl - backdated),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement | x509.KeyUsageDataEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	certificate, key := sign(template, root.certificate, root.key)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		panic(err)
	}
	idx := s.st.next()
	l := &leaf{root: root, answer: leafAnswer{
		SerialNumber: fmt.Sprintf("%02x", a.serial), CertPEM: pemOf("CERTIFICATE", certificate.Raw), PrivateKeyPEM: pemOf("EC PRIVATE KEY", der),
		Service: service, ServiceURI: uri.String(), ValidAfter: certificate.NotBefore, ValidBefore: certificate.NotAfter,
		CreateIndex: idx, ModifyIndex: idx,
	}}
	share := renewFrom + (renewUntil-renewFrom)*mathrand.Float64()
	l.due = certificate.NotBefore.Add(time.Duration(share * float64(ttl)))
	a.leaves[service] = l
	if len(a.signed) == maxQueries {
		a.signed = append(a.signed[:0], a.signed[maxQueries/2:]...)
	}
	a.signed = append(a.signed, now)
	return l
}

func (s agentAPI) caRoots(w http.ResponseWriter, r *http.Request) (any, error) {
	var answer struct {
		ActiveRootID, TrustDomain string
		Roots                     []rootAnswer
	}
	err := s.read(w, r, func(*state) uint64 {
		a := s.authority()
		answer.TrustDomain, answer.Roots = a.trustDomain, nil
		for i, root := range a.roots {
			active := i == len(a.roots)-1
			shown := rootAnswer{
				ID: fmt.Sprintf("% x", root.certificate.SerialNumber.Bytes()), Name: "Consul CA Primary Cert", SerialNumber: root.certificate.SerialNumber.Uint64(),
				ExternalTrustDomain: strings.TrimSuffix(a.trustDomain, ".consul"), NotBefore: root.certificate.NotBefore, NotAfter: root.certificate.NotAfter,
				RootCert: pemOf("CERTIFICATE", root.certificate.Raw), Active: active, PrivateKeyType: "ec", PrivateKeyBits: 256,
				CreateIndex: root.index, ModifyIndex: root.index,
			}
			if active {
				answer.ActiveRootID = shown.ID
			}
			answer.Roots = append(answer.Roots, shown)
		}
		return a.index
	})
	return answer, err
}

func (s agentAPI) caLeaf(w http.ResponseWriter, r *http.Request) (any, error) {
	service := after(r, "/v1/agent/connect/ca/leaf/")
	opts, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	if err := s.require(r, "service:write", service); err != nil {
		return nil, err
	}
	timeout := time.Duration(0)
	if opts.index > 0 {
		timeout = opts.timeout()
	}
	found, err := s.awaitLeaf(r.Context(), timeout, service, opts.index)
	if err != nil {
		return nil, err
	}
	s.writeMeta(w, r, found.ModifyIndex, opts)
	return found, nil
}

// awaitLeaf is block for a leaf, which changes when it is due, too.
func (s agentAPI) awaitLeaf(ctx context.Context, timeout time.Duration, service string, after uint64) (leafAnswer, error) {
	v := s.exchangeOf(ctx)
	expired, stop := v.timer(timeout)
	defer stop()
	for {
		s.mu.Lock()
		l, changed := s.leafOf(service), s.st.changed
		found, due := l.answer, time.NewTimer(time.Until(l.due))
		s.mu.Unlock()
		if v.mustRetry() {
			due.Stop()
			return found, errRetry
		}
		if found.ModifyIndex > after || expired == nil {
			due.Stop()
			return found, nil
		}
		select {
		case <-due.C:
		case <-changed:
		case <-v.changed.Done():
		case <-expired:
			expired = nil
		case <-ctx.Done():
			panic(http.ErrAbortHandler)
		}
		due.Stop()
	}
}
