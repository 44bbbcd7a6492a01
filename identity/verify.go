package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"
)

// verified is what the certificate of the other end proves.
type verified struct {
	id     ID
	chains [][]*x509.Certificate
	ends   time.Time     // when the first certificate of every chain has ended
	late   time.Duration // how long ago it ended; 0 is not
}

// verify checks that certificates are of a service of the trust domain of s, and have not
// ended longer than grace ago.
func (s *Snapshot) verify(certificates []*x509.Certificate, usage x509.ExtKeyUsage, grace time.Duration) (*verified, error) {
	if len(certificates) == 0 {
		return nil, refuse(NoCertificate, "", "the other end has presented no certificate")
	}
	leaf, now := certificates[0], time.Now()
	id, idErr := idOf(leaf, s.anyForm)
	presented := ""
	if uris, err := urisOf(leaf); err == nil && len(uris) > 0 {
		presented = strings.Join(uris, " ")
	}
	v := &verified{id: id}
	switch {
	case now.Before(leaf.NotBefore):
		return nil, refuse(NotYetValid, presented, "it is valid from %v on, in %v: compare the clocks of both machines", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotBefore.Sub(now).Round(time.Second))
	case now.Sub(leaf.NotAfter) > grace:
		return nil, refuse(Expired, presented, "it ended at %v, %v ago", leaf.NotAfter.UTC().Format(time.RFC3339), now.Sub(leaf.NotAfter).Round(time.Second))
	case now.After(leaf.NotAfter):
		v.late = now.Sub(leaf.NotAfter)
		now = leaf.NotAfter
	}
	chains, err := s.chains(certificates, usage, now)
	switch {
	case err != nil && idErr == nil && id.TrustDomain != s.id.TrustDomain:
		return nil, refuse(WrongTrustDomain, presented, "want one of %q, signed by its authority", s.id.TrustDomain)
	case err != nil:
		return nil, refuse(authorityReason(leaf, err), presented, "%v", err)
	case idErr != nil:
		return nil, refuse(BadID, presented, "%v", idErr)
	case id.TrustDomain != s.id.TrustDomain:
		return nil, refuse(WrongTrustDomain, presented, "want one of %q", s.id.TrustDomain)
	}
	v.chains, v.ends = chains, endOf(chains)
	return v, nil
}

func authorityReason(leaf *x509.Certificate, err error) Reason {
	switch {
	case bytes.Equal(leaf.RawIssuer, leaf.RawSubject) && leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil:
		return SelfSigned
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return UnknownAuthority
	default:
		return BadCertificate
	}
}

// endOf is when the longest-lived chain ends.
func endOf(chains [][]*x509.Certificate) time.Time {
	var last time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}

// expect checks that a server is the one that was called.
func expect(want, got ID, datacenters []string) error {
	mismatch := func(reason Reason, part, want string) error {
		return refuse(reason, got.String(), "want the %s %q", part, want)
	}
	switch {
	case got.TrustDomain != want.TrustDomain:
		return mismatch(WrongTrustDomain, "trust domain", want.TrustDomain)
	case want.Path != got.Path:
		return refuse(WrongService, got.String(), "want %q", want)
	case got.Service != want.Service:
		return mismatch(WrongService, "service", want.Service)
	case got.Partition != want.Partition:
		return mismatch(WrongPartition, "partition", want.Partition)
	case got.Namespace != want.Namespace:
		return mismatch(WrongNamespace, "namespace", want.Namespace)
	case got.Datacenter != want.Datacenter && !slices.Contains(datacenters, got.Datacenter):
		return mismatch(WrongDatacenter, "datacenter", want.Datacenter)
	}
	return nil
}
