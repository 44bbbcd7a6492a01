package cachepage

import "github.com/meshlite-go/meshlite/interceptors/cache"

// Page is the part "cache" of /debug/meshlite. `meshlite cache stats` reads it, and its help
// says what the fields are.
type Page struct {
	Caches []Report `json:"caches"`
}

// Report is of one cache.
type Report struct {
	Name     string `json:"name"` // "runtime", or who was given it
	Entries  int64  `json:"entries"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes uint64 `json:"max_bytes"`
	Counts
	Invalidations uint64   `json:"invalidations"`
	StoreHits     uint64   `json:"store_hits"`
	StoreErrors   uint64   `json:"store_errors"`
	StoreLosses   uint64   `json:"store_losses"`
	Methods       []Method `json:"methods"`
	Index         []Entry  `json:"index,omitzero"` // [] on the page; nil is left out
}

// Counts and Rate are the cache's own, which has their names in JSON.
type (
	Counts = cache.Counts
	Rate   = cache.Rate
)

// Method is of the calls of one method.
type Method struct {
	Method  string `json:"method"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
	Counts
	LastMinute    Rate     `json:"last_minute"`
	Last5Minutes  Rate     `json:"last_5_minutes"`
	Last15Minutes Rate     `json:"last_15_minutes"`
	Shadow        []Shadow `json:"shadow"`
}

// Shadow is what a ttl would have done.
type Shadow struct {
	UpToSeconds float64 `json:"up_to_seconds"`
	Compared    uint64  `json:"compared"`
	Changed     uint64  `json:"changed"`
}

// Entry is of a kept answer, and nothing of what was asked, or by whom.
type Entry struct {
	Method      string  `json:"method"`
	ID          string  `json:"id"`
	Code        string  `json:"code"`
	Bytes       uint32  `json:"bytes"`
	AgeSeconds  float64 `json:"age_seconds"`
	LeftSeconds float64 `json:"left_seconds"`
	ETag        string  `json:"etag"`
}

// Cleared is what the action has done. `meshlite cache clear` reads it.
type Cleared struct {
	Caches []ClearedCache `json:"caches"`
}

// ClearedCache is what it has done to one cache.
type ClearedCache struct {
	Name string `json:"name"`
	// Entries is about how many it had of what was cleared. Nobody counts them by tags.
	Entries        *int64   `json:"entries,omitempty"`
	UnknownMethods []string `json:"unknown_methods,omitempty"` // that it has never met
	Error          string   `json:"error,omitempty"`           // why processes that share its store may keep them
}
