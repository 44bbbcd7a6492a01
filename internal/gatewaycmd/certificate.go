package gatewaycmd

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateInterval is how often handshakes look for another certificate at most.
const certificateInterval = time.Second

// certificate is the pair of two files, as they are now. A pair that is not valid, as it is
// between the writing of two files, leaves the one before.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu        sync.Mutex
	pair      *tls.Certificate
	read      [2]os.FileInfo // of the files when they were read last, valid or not
	lookedAt  time.Time
	hasFailed bool
}

// loadCertificate reads the files, which must be a pair now.
func loadCertificate(cert, key string) (*certificate, error) {
	c := &certificate{cert: cert, key: key, log: slog.Default(), lookedAt: time.Now()}
	c.read, _ = c.stat() // before they are read: what comes between is read again
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	c.pair = &pair
	return c, nil
}

// get is for [tls.Config.GetCertificate].
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.lookedAt) >= certificateInterval {
		c.lookedAt = now
		c.reload()
	}
	return c.pair, nil
}

// reload reads the files if they are others than before.
func (c *certificate) reload() {
	found, err := c.stat()
	if err == nil && isSame(found[0], c.read[0]) && isSame(found[1], c.read[1]) {
		return
	}
	var pair tls.Certificate
	if err == nil {
		c.read = found
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	if err != nil {
		if !c.hasFailed {
			c.log.Error("the new certificate cannot be used, and the one before stays", "tls_cert", c.cert, "tls_key", c.key, "error", err)
		}
		c.hasFailed = true
		return
	}
	c.pair, c.hasFailed = &pair, false
	c.log.Info("serving a new certificate", "tls_cert", c.cert, "expires", pair.Leaf.NotAfter)
}

func (c *certificate) stat() (found [2]os.FileInfo, err error) {
	if found[0], err = os.Stat(c.cert); err == nil {
		found[1], err = os.Stat(c.key)
	}
	return found, err
}

func isSame(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
