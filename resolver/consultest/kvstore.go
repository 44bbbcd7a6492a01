package consultest

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Bounds of memory of the KV store.
const (
	maxKeys       = 10000
	maxKVBytes    = 64 << 20
	maxTombstones = 4096
)

// kvEntry is a key, in Consul's shape.
type kvEntry struct {
	LockIndex   uint64
	Key         string
	Flags       uint64
	Value       []byte
	CreateIndex uint64
	ModifyIndex uint64
}

// kvStore keeps deleted keys by their index, so that the index of a prefix does
// not go backwards when its newest key goes.
type kvStore struct {
	entries    map[string]kvEntry
	tombstones map[string]uint64
	buried     uint64 // the newest of the tombstones that were given up
	index      uint64 // of the last change to any key
	size       int
}

func newKVStore() kvStore {
	return kvStore{entries: make(map[string]kvEntry), tombstones: make(map[string]uint64)}
}

func (kv *kvStore) put(entry kvEntry, idx uint64) error {
	old, exists := kv.entries[entry.Key]
	if exists && old.Flags == entry.Flags && bytes.Equal(old.Value, entry.Value) {
		return nil
	}
	size := kv.size + len(entry.Value) - len(old.Value)
	if !exists && len(kv.entries) == maxKeys || size > maxKVBytes {
		return httpError{http.StatusInsufficientStorage,
			fmt.Sprintf("the KV store is full: it holds at most %d keys and %d bytes", maxKeys, maxKVBytes)}
	}
	entry.CreateIndex, entry.ModifyIndex = idx, idx
	if exists {
		entry.CreateIndex = old.CreateIndex
	}
	kv.entries[entry.Key], kv.size, kv.index = entry, size, idx
	return nil
}

func (kv *kvStore) remove(key string, idx uint64) {
	old, exists := kv.entries[key]
	if !exists {
		return
	}
	delete(kv.entries, key)
	kv.size -= len(old.Value)
	if len(kv.tombstones) == maxTombstones {
		kv.buried = kv.index
		clear(kv.tombstones)
	}
	kv.tombstones[key], kv.index = idx, idx
}

// list finds the keys that begin with prefix, in order, and the index of the
// last change to any of them.
func (kv *kvStore) list(prefix string) (entries []kvEntry, index uint64) {
	if prefix == "" {
		index = kv.index
	}
	for key, entry := range kv.entries {
		if strings.HasPrefix(key, prefix) {
			entries, index = append(entries, entry), max(index, entry.ModifyIndex)
		}
	}
	for key, idx := range kv.tombstones {
		if strings.HasPrefix(key, prefix) {
			index = max(index, idx)
		}
	}
	if index = max(index, kv.buried); index == 0 {
		index = kv.index
	}
	slices.SortFunc(entries, func(a, b kvEntry) int { return cmp.Compare(a.Key, b.Key) })
	return entries, index
}
