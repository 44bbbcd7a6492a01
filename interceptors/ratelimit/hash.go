package ratelimit

import "hash/maphash"

// key stands for a key of any length by two hashes of it. Their seeds are secret,
// so nobody can choose keys that collide, and 128 bits do not collide by chance.
type key struct{ hi, lo uint64 }

type seeds [2]maphash.Seed

func newSeeds() seeds { return seeds{maphash.MakeSeed(), maphash.MakeSeed()} }

func (s *seeds) hash(text string) key {
	return key{maphash.String(s[0], text), maphash.String(s[1], text)}
}

func (s *seeds) hashBytes(b []byte) key {
	return key{maphash.Bytes(s[0], b), maphash.Bytes(s[1], b)}
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
