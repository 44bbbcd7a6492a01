package cache

import (
	"time"

	"google.golang.org/grpc/codes"
)

// maxIndex caps what an index tells of. While it is made, nothing can be stored.
const maxIndex = 1000

// Kept tells of one kept answer, and nothing of what was asked, or by whom.
type Kept struct {
	Method string // "package.Service/Method"
	ID     string // a fingerprint of its key
	Code   codes.Code
	Bytes  uint32 // that it takes in memory
	Age    time.Duration
	Left   time.Duration // until it is no longer fresh; negative is past
	ETag   string
}

// Index tells of the answers that are asked for most, at most limit and 1,000 of them.
func (c *Cache) Index(limit int) []Kept {
	var all []Kept
	limit = min(limit, maxIndex)
	if limit <= 0 {
		return nil
	}
	for found := range c.entries.Hottest() {
		e := found.Value
		r := e.method.rule.Load()
		if r == nil || len(e.vary) > 0 || !r.holds(e) {
			continue
		}
		age := time.Since(e.born)
		all = append(all, Kept{
			Method: e.method.name, ID: digest([]byte(found.Key))[:12], Code: e.failure.Code(),
			Bytes: e.weight, Age: age, Left: r.ttlOf(e) - age, ETag: e.etag,
		})
		if len(all) == limit {
			break
		}
	}
	return all
}
