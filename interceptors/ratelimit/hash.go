package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
)

// key stands for a key of any length by two hashes of it. Their seeds are secret,
// so nobody can choose keys that collide, and 128 bits do not collide by chance.
type key struct{ hi, lo uint64 }

// seeds are those of this process or, where replicas count together, a secret of
// theirs.
type seeds struct {
	own    [2]maphash.Seed
	secret *[sha256.Size]byte
}

func newSeeds() seeds { return seeds{own: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}} }

// sharedSeeds give the same keys in every process.
func sharedSeeds(secret *string) seeds {
	text := "meshlite rate limit\n"
	if secret != nil {
		text += *secret
	}
	sum := sha256.Sum256([]byte(text))
	return seeds{secret: &sum}
}

func (s *seeds) hash(text string) key {
	if s.secret != nil {
		return s.keyed([]byte(text))
	}
	return key{maphash.String(s.own[0], text), maphash.String(s.own[1], text)}
}

func (s *seeds) hashBytes(b []byte) key {
	if s.secret != nil {
		return s.keyed(b)
	}
	return key{maphash.Bytes(s.own[0], b), maphash.Bytes(s.own[1], b)}
}

// keyed is SHA-256 with the secret before the text, and no HMAC: since half of the
// digest is kept back, nobody can go on from there.
func (s *seeds) keyed(b []byte) key {
	var space [128]byte
	sum := sha256.Sum256(append(append(space[:0], s.secret[:]...), b...))
	return key{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

// hashAll depends on the order of texts and on where each ends.
func (s *seeds) hashAll(texts []string) key {
	const prime = 0x9e3779b97f4a7c15
	var all key
	for _, text := range texts {
		one := s.hash(text)
		all = key{all.hi*prime + one.hi, all.lo*prime + one.lo}
	}
	return all
}

// of is the key k of one limit among those of all limits.
func (k key) of(limit key) key { return key{k.hi ^ limit.hi, k.lo ^ limit.lo} }

// bytes are k for others.
func (k key) bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return b
}
