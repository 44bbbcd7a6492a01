package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	defaultFilesInterval = 5 * time.Second
	minFilesInterval     = 100 * time.Millisecond
	maxFile              = 1 << 20 // bytes
)

// FilesConfig says where PEM files are.
type FilesConfig struct {
	Certificate string // the leaf, and what is between it and the root
	Key         string // of the leaf: nobody else should be able to read it
	Roots       string // the trusted authorities
	// Interval is how often the files are read: at least 100 ms. 0 is 5 s.
	Interval time.Duration
	// Logger receives what is wrong with the files. Nil is slog.Default().
	Logger *slog.Logger
}

// PEMFiles is a [Source] of files that another program replaces from time to time. What does
// not fit together, as between two writes, is logged and not used: the last good certificates
// stay. It is safe for concurrent use, and runs no goroutine.
type PEMFiles struct {
	config FilesConfig

	mu      sync.Mutex
	read    [3][]byte // what current was made of
	readAt  time.Time
	failing string // the last error, which was logged
	open    bool   // others can read the key, which was logged
	current *Snapshot
	counts  SourceStats
}

var _ Source = (*PEMFiles)(nil)

// Files reads the files for the first time. Its error names the file.
func Files(config FilesConfig) (*PEMFiles, error) {
	if config.Interval != 0 && config.Interval < minFilesInterval {
		return nil, fmt.Errorf("identity: Interval %v: write at least %v, or 0 for %v", config.Interval, minFilesInterval, defaultFilesInterval)
	}
	config.Interval = cmp.Or(config.Interval, defaultFilesInterval)
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	f := &PEMFiles{config: config}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

// Current implements Source. It reads the files if the last time was an Interval ago.
func (f *PEMFiles) Current() (*Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.readAt) >= f.config.Interval {
		f.refresh()
	}
	return f.current, nil
}

// Next implements Source.
func (f *PEMFiles) Next(ctx context.Context, last *Snapshot) (*Snapshot, error) {
	timer := time.NewTicker(f.config.Interval)
	defer timer.Stop()
	for {
		if s, _ := f.Current(); s != last {
			return s, nil
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// refresh keeps the last good certificates if the files are not. The caller holds f.mu.
func (f *PEMFiles) refresh() {
	err := f.load()
	if err != nil {
		f.counts.Failed++
	}
	switch {
	case err != nil && f.failing != err.Error():
		f.config.Logger.Error("the certificate files cannot be used: the last good certificate stays", "error", err, "id", f.current.id.String(), "valid_until", f.current.Leaf().NotAfter)
		f.failing = err.Error()
	case err == nil && f.failing != "":
		f.config.Logger.Info("the certificate files can be used again", "id", f.current.id.String(), "valid_until", f.current.Leaf().NotAfter)
		f.failing = ""
	}
}

// load replaces the snapshot if the files have changed.
func (f *PEMFiles) load() error {
	f.readAt = time.Now()
	var read [3][]byte
	for i, path := range []string{f.config.Certificate, f.config.Key, f.config.Roots} {
		data, err := readFile(path)
		if err != nil {
			return fmt.Errorf("identity: %s: %w", [...]string{"Certificate", "Key", "Roots"}[i], err)
		}
		read[i] = data
	}
	f.checkMode()
	if f.current != nil && bytes.Equal(read[0], f.read[0]) && bytes.Equal(read[1], f.read[1]) && bytes.Equal(read[2], f.read[2]) {
		return nil
	}
	s, err := FromPEM(read[0], read[1], read[2])
	if err != nil {
		return fmt.Errorf("%w (%s, %s, %s)", err, f.config.Certificate, f.config.Key, f.config.Roots)
	}
	f.read, f.current = read, s
	f.counts.Published++
	return nil
}

// SourceStats returns how often other files were read, and how often they could not be used.
func (f *PEMFiles) SourceStats() SourceStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

func (f *PEMFiles) checkMode() {
	info, err := os.Stat(f.config.Key)
	open := err == nil && info.Mode().Perm()&0o007 != 0
	if open && !f.open {
		f.config.Logger.Warn("every user of this machine can use the private key: chmod o= it", "file", f.config.Key, "mode", info.Mode().Perm().String())
	}
	f.open = open
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, err
}

// FromPEM makes a snapshot of a leaf with the certificates between it and the root, its key,
// and the roots. An error has nothing of the key.
func FromPEM(certificate, key, roots []byte) (*Snapshot, error) {
	leaf, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("identity: certificate and key: %w", err)
	}
	trusted, err := RootsFromPEM(roots)
	if err != nil {
		return nil, err
	}
	return NewSnapshot(leaf, trusted)
}

// RootsFromPEM reads certificates, at least one.
func RootsFromPEM(text []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("identity: the roots have a PEM block %.40q: want certificates only", block.Type)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("identity: the roots: %w", err)
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, errors.New("identity: there is no PEM certificate among the roots")
	}
	return roots, nil
}
