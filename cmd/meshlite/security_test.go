package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Case X16
func TestSecurity(t *testing.T) {
	cert, key, pair := selfSigned(t)
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	open := openTLS(t, &tls.Config{Certificates: []tls.Certificate{pair}})
	mutual := openTLS(t, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	agent := openAgent(t)
	enlist(t, agent, "sweets", "sweets-1", open, "passing")
	openReflectingShop(t, "catalog", 1)

	for name, test := range map[string]struct {
		args     []string
		code     int
		out, err string
	}{
		"trusted":                   {[]string{open, getSweet, "--cacert", cert}, 0, `"sweet"`, "OK from " + open},
		"by another name":           {[]string{open, getSweet, "--cacert", cert, "--servername", "catalog"}, 0, `"sweet"`, ""},
		"with a certificate":        {[]string{mutual, getSweet, "--cacert", cert, "--cert", cert, "--key", key}, 0, `"sweet"`, ""},
		"without a certificate":     {[]string{mutual, getSweet, "--cacert", cert}, 1, "", "Unavailable"},
		"not trusted":               {[]string{open, getSweet}, 1, "", "signed by unknown authority\": name the file of its authority by --cacert"},
		"wrong name":                {[]string{open, getSweet, "--cacert", cert, "--servername", "inventory"}, 1, "", "name what the certificate proves by --servername"},
		"service of the wrong name": {[]string{"consul:///sweets", getSweet, "--cacert", cert}, 1, "", "name what the certificate proves by --servername"},
		"service by another name":   {[]string{"consul:///sweets", getSweet, "--cacert", cert, "--servername", "catalog"}, 0, `"sweet"`, "OK from sweets-1 (" + open},
		"service by the wrong name": {[]string{"consul:///sweets", getSweet, "--cacert", cert, "--servername", "inventory"}, 1, "", "name what the certificate proves by --servername"},
		"plaintext to TLS":          {[]string{open, getSweet, "--plaintext"}, 1, "", "if the server speaks TLS, leave --plaintext out"},
		"TLS to plaintext":          {[]string{"consul:///catalog", getSweet}, 1, "", "the server speaks plaintext: add --plaintext"},
		"a key of something else":   {[]string{open, getSweet, "--cert", cert, "--key", cert}, 2, "", "--cert "},
	} {
		t.Run(name, func(t *testing.T) {
			runTool(t, append([]string{"call"}, test.args...)...).want(t, test.code, test.out, test.err)
		})
	}
}

// selfSigned is a certificate for 127.0.0.1 and "catalog", also as PEM files.
func selfSigned(t *testing.T) (cert, key string, pair tls.Certificate) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"catalog"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = writePEM(t, "CERTIFICATE", der), writePEM(t, "PRIVATE KEY", secret)
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	return cert, key, pair
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
