package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

type pemFiles struct {
	dir    string
	config identity.FilesConfig
	log    *logged
}

func newPEMFiles(t testing.TB) *pemFiles {
	dir := t.TempDir()
	p := &pemFiles{dir: dir, log: &logged{}}
	p.config = identity.FilesConfig{
		Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Roots: filepath.Join(dir, "ca.crt"), Logger: p.log.logger(),
	}
	return p
}

func keyPEM(t testing.TB, leaf tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (p *pemFiles) write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *pemFiles) certificate(t testing.TB, leaf tls.Certificate) {
	p.write(t, p.config.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
}

func (p *pemFiles) put(t testing.TB, authority *certtest.Authority, leaf tls.Certificate) {
	t.Helper()
	p.certificate(t, leaf)
	p.write(t, p.config.Key, keyPEM(t, leaf))
	p.write(t, p.config.Roots, authority.PEM)
}

func TestFilesAreReadAgainWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := certtest.New(t)
		p := newPEMFiles(t)
		p.put(t, authority, authority.IssueID(t, time.Hour, good))
		source, err := identity.Files(p.config)
		if err != nil {
			t.Fatal(err)
		}
		first, _ := source.Current()
		if first.ID() != idOf("catalog") {
			t.Fatalf("the id is %v", first.ID())
		}
		renewed := authority.IssueID(t, 2*time.Hour, good)
		p.certificate(t, renewed) // its key is not there yet
		time.Sleep(time.Minute)
		if kept, _ := source.Current(); kept != first {
			t.Error("a pair that does not fit is used")
		}
		if text := p.log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, p.config.Key) {
			t.Errorf("a broken pair is logged as: %s", text)
		}
		p.put(t, authority, renewed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, err := source.Next(ctx, first)
		if err != nil || !next.Leaf().NotAfter.After(first.Leaf().NotAfter) {
			t.Errorf("the renewed pair: %v", err)
		}
		if !strings.Contains(p.log.String(), "can be used again") {
			t.Errorf("the log does not say that it is over: %s", p.log)
		}
		if err := os.Remove(p.config.Key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if kept, err := source.Current(); kept != next || err != nil {
			t.Error("a file that is away ends the last certificate")
		}
	})
}

// Case I14: No private key in a log or in an error; a key read from a file that is readable by
// others is warned about.
func TestAKeyIsKeptSecret(t *testing.T) {
	authority := certtest.New(t)
	p := newPEMFiles(t)
	leaf := authority.IssueID(t, time.Hour, good)
	p.put(t, authority, leaf)
	if _, err := identity.Files(p.config); err != nil || p.log.String() != "" {
		t.Fatalf("%v; %s", err, p.log)
	}
	if err := os.Chmod(p.config.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Files(p.config); err != nil || !strings.Contains(p.log.String(), "level=WARN") || !strings.Contains(p.log.String(), p.config.Key) {
		t.Errorf("an open key: %v; %s", err, p.log)
	}
	key := strings.Split(string(keyPEM(t, leaf)), "\n")[1]
	broken := []struct {
		name string
		path string
		text []byte
	}{
		{"a key with a damaged end", p.config.Key, []byte("-----BEGIN PRIVATE KEY-----\n" + key + "\n-----END PRIVATE KEY-----\n")},
		{"a key among the roots", p.config.Roots, keyPEM(t, leaf)},
		{"a key for a certificate", p.config.Certificate, keyPEM(t, leaf)},
		{"a key of another", p.config.Key, keyPEM(t, authority.IssueID(t, time.Hour, good))},
		{"no roots", p.config.Roots, nil},
		{"other roots", p.config.Roots, certtest.New(t).PEM},
		{"a certificate without an id", p.config.Certificate, nil},
	}
	for _, test := range broken {
		p.put(t, authority, leaf)
		p.write(t, test.path, test.text)
		_, err := identity.Files(p.config)
		if err == nil {
			t.Errorf("%s: no error", test.name)
			continue
		}
		if text := err.Error() + p.log.String(); strings.Contains(text, key[:20]) {
			t.Errorf("%s: the key is in %s", test.name, text)
		}
	}
	if _, err := identity.Files(identity.FilesConfig{Interval: time.Millisecond}); err == nil {
		t.Error("an interval of 1 ms is accepted")
	}
}
