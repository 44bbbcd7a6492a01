package identity

import "crypto/x509"

// Verify is how a server verifies its client.
func (s *Snapshot) Verify(certificates []*x509.Certificate) (ID, error) {
	v, err := s.verify(certificates, x509.ExtKeyUsageClientAuth, 0)
	if err != nil {
		return ID{}, err
	}
	return v.id, nil
}
