package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
)

const (
	readTimeout = 5 * time.Second
	maxFile     = 1 << 20 // bytes
	maxKeys     = 256
	minRSA      = 2048 // bits (RFC 7518, 3.3)
)

// keySet is one reading. It is immutable.
type keySet struct{ keys []key }

// key is a public one.
type key struct {
	id        string
	algorithm string // "" is any that fits
	public    any
}

// find is the key with the id, or the only one that fits the algorithm if a token names none.
func (s *keySet) find(id string, named bool, algorithm string) (any, error) {
	if s == nil {
		return nil, errNoKeys
	}
	var found []any
	known := false
	for _, k := range s.keys {
		if named && k.id != id {
			continue
		}
		known = true
		if fits(k.public, algorithm) && (k.algorithm == "" || k.algorithm == algorithm) {
			found = append(found, k.public)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case named && known && len(found) == 0:
		return nil, errAlgorithm
	default:
		return nil, errKey
	}
}

// parse reads a JWKS. It skips keys that verify no signature, such as symmetric ones and those
// for encryption, and fails if none is left.
func parse(text []byte) (*keySet, error) {
	var document struct{ Keys []jwkset.JWKMarshal }
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, errors.New("it is no JSON web key set")
	}
	if len(document.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, want %d at most", len(document.Keys), maxKeys)
	}
	set := &keySet{}
	for _, given := range document.Keys {
		if given.USE != "" && given.USE != jwkset.UseSig || len(given.KEYOPS) > 0 && !slices.Contains(given.KEYOPS, jwkset.KeyOpsVerify) {
			continue
		}
		given.X5U = "" // is never fetched
		read, err := jwkset.NewJWKFromMarshal(given, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue
		}
		switch public := read.Key().(type) {
		case *rsa.PublicKey:
			if public.N.BitLen() < minRSA {
				continue
			}
		case *ecdsa.PublicKey, ed25519.PublicKey:
		default:
			continue
		}
		set.keys = append(set.keys, key{given.KID, string(given.ALG), read.Key()})
	}
	if len(set.keys) == 0 {
		return nil, errors.New("it has no public key that verifies signatures")
	}
	return set, nil
}

// read reads the keys once.
func (v *Verifier) read() (*keySet, error) {
	var source io.ReadCloser
	if isURL(v.config.Keys) {
		ctx, cancel := context.WithTimeout(v.closing, readTimeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.config.Keys, nil)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Accept", "application/jwk-set+json, application/json")
		response, err := v.config.Client.Do(request)
		if err != nil {
			return nil, err
		}
		source = response.Body
		if response.StatusCode != http.StatusOK {
			source.Close()
			return nil, fmt.Errorf("%s answers %s", v.config.Keys, response.Status)
		}
	} else {
		file, err := os.Open(v.config.Keys)
		if err != nil {
			return nil, err
		}
		source = file
	}
	defer source.Close()
	text, err := io.ReadAll(io.LimitReader(source, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile:
		return nil, fmt.Errorf("%s has more than %d bytes", v.config.Keys, maxFile)
	}
	keys, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.config.Keys, err)
	}
	return keys, nil
}

// follow reads the keys again and again, until Close.
func (v *Verifier) follow() {
	defer close(v.finished)
	next := time.Duration(0)
	if v.keys.Load() != nil {
		next = v.config.Refresh
	}
	timer := time.NewTimer(next)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-timer.C:
		case <-v.wanted:
		case <-v.closing.Done():
			v.over(v.begin())
			return
		}
		reading := v.begin()
		keys, err := v.read()
		next = v.config.Refresh
		switch {
		case v.closing.Err() != nil:
		case err != nil:
			next = v.config.MinRefresh
			if !failing {
				v.config.Logger.Warn("the keys of tokens cannot be read: the last good ones stay in use", "have_keys", v.keys.Load() != nil, "error", err)
			}
			failing = true
		default:
			if failing {
				v.config.Logger.Info("the keys of tokens can be read again")
			}
			failing = false
			v.keys.Store(keys)
		}
		v.over(reading)
		timer.Reset(next)
	}
}

// begin is a reading that those who wait for one can wait for.
func (v *Verifier) begin() chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reading == nil {
		v.reading = make(chan struct{})
	}
	select {
	case <-v.wanted: // this is the one
	default:
	}
	return v.reading
}

func (v *Verifier) over(reading chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reading, v.triedAt = nil, time.Now()
	close(reading)
}

// await waits for keys other than seen. It returns false at once if they were read of late, and
// are still these.
func (v *Verifier) await(ctx context.Context, seen *keySet) bool {
	v.mu.Lock()
	if v.keys.Load() != seen {
		v.mu.Unlock()
		return true
	}
	reading := v.reading
	if reading == nil {
		if v.closing.Err() != nil || !v.triedAt.IsZero() && time.Since(v.triedAt) < v.config.MinRefresh {
			v.mu.Unlock()
			return false
		}
		reading = make(chan struct{})
		v.reading = reading
		v.wanted <- struct{}{}
	}
	v.mu.Unlock()
	select {
	case <-reading:
		return true
	case <-ctx.Done():
		return false
	}
}
