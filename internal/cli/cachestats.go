package cli

import (
	"context"
	"errors"
)

// CacheStatsOptions are those of [CacheStats].
type CacheStatsOptions struct {
	CacheOptions
	Index bool // also list what is kept
}

// cached is a process, and the caches in it. The fields are those of its admin page.
type cached struct {
	process
	Caches []cacheReport `json:"caches"`
}

type cacheReport struct {
	Name     string `json:"name"` // "runtime", or who was given it
	Entries  int64  `json:"entries"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes uint64 `json:"max_bytes"`
	cacheCounts
	Invalidations uint64        `json:"invalidations"`
	StoreHits     uint64        `json:"store_hits"`
	StoreErrors   uint64        `json:"store_errors"`
	StoreLosses   uint64        `json:"store_losses"`
	Methods       []cacheMethod `json:"methods"`
	Index         []cacheEntry  `json:"index,omitempty"`
}

type cacheCounts struct {
	Hits              uint64 `json:"hits"`
	Misses            uint64 `json:"misses"`
	Coalesced         uint64 `json:"coalesced"`
	Stale             uint64 `json:"stale"`
	Bypassed          uint64 `json:"bypassed"`
	ShadowHits        uint64 `json:"shadow_hits"`
	ShadowStale       uint64 `json:"shadow_stale"`
	Stored            uint64 `json:"stored"`
	Refreshed         uint64 `json:"refreshed"`
	RefreshesFailed   uint64 `json:"refreshes_failed"`
	IgnoredDirectives uint64 `json:"ignored_directives"`
}

// rate is of all calls that the cache had a part in.
func (c cacheCounts) rate() cacheRate {
	served := c.Hits + c.Coalesced + c.Stale
	return cacheRate{served, served + c.Misses + c.ShadowHits + c.ShadowStale}
}

type cacheMethod struct {
	Method  string `json:"method"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
	cacheCounts
	LastMinute    cacheRate     `json:"last_minute"`
	Last5Minutes  cacheRate     `json:"last_5_minutes"`
	Last15Minutes cacheRate     `json:"last_15_minutes"`
	Shadow        []cacheShadow `json:"shadow"`
}

type cacheRate struct {
	Served uint64 `json:"served"`
	Calls  uint64 `json:"calls"`
}

type cacheShadow struct {
	UpToSeconds float64 `json:"up_to_seconds"`
	Compared    uint64  `json:"compared"`
	Changed     uint64  `json:"changed"`
}

type cacheEntry struct {
	Method      string  `json:"method"`
	ID          string  `json:"id"`
	Code        string  `json:"code"`
	Bytes       uint32  `json:"bytes"`
	AgeSeconds  float64 `json:"age_seconds"`
	LeftSeconds float64 `json:"left_seconds"`
	ETag        string  `json:"etag"`
}

// CacheStats shows what caches do for each method.
func CacheStats(ctx context.Context, o CacheStatsOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	told, err := askCaches(ctx, o.CacheOptions, streams.Err, func(a asker, address string) ([]cacheReport, error) {
		return a.caches(ctx, address)
	})
	if err != nil {
		return err
	}
	all := make([]cached, len(told.processes))
	for i, p := range told.processes {
		all[i] = cached{p, append([]cacheReport{}, told.answers[i]...)}
		for j := range all[i].Caches {
			if !o.Index {
				all[i].Caches[j].Index = nil
			}
		}
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, map[string][]cached{"processes": all})
	}
	return writeCaches(streams.Out, all, o.Index)
}

// caches reads what the program tells of its caches, whose admin page is at address.
func (a asker) caches(ctx context.Context, address string) ([]cacheReport, error) {
	var page struct {
		Cache *struct{ Caches *[]cacheReport }
	}
	if err := a.read(ctx, address, &page); err != nil {
		return nil, err
	}
	if page.Cache == nil || page.Cache.Caches == nil {
		return nil, errors.New("an answer without caches: is it built with an older meshlite?")
	}
	return *page.Cache.Caches, nil
}
