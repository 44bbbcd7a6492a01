package gatewaycmd

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// writePair writes a certificate and its key as PEM.
func writePair(t *testing.T, pair tls.Certificate, cert, key string) {
	t.Helper()
	text, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}
