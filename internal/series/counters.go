package series

// maxSeen caps what is remembered of sources that are gone.
const maxSeen = 10_000

// Counters make series that only grow of sources that come and go: what is added to a
// series is what has come since the last look. The zero value is ready. It is not safe for
// concurrent use.
type Counters[Source, Series comparable] struct {
	seen   map[Source]uint64 // what it had counted when it was last there
	totals map[Series]uint64 // of the last look
}

// Grow takes what the sources have counted until now, and to which series each belongs
// now, and returns the series. A source that has counted less than before has begun anew, and
// what it has counted since is lost: better that than to count all of it twice.
func (c *Counters[Source, Series]) Grow(sources map[Source]uint64, seriesOf func(Source) Series) map[Series]uint64 {
	if c.seen == nil || len(c.seen) > maxSeen {
		c.seen = keep(c.seen, sources)
	}
	next := make(map[Series]uint64, len(c.totals))
	for source, n := range sources {
		series := seriesOf(source)
		if _, begun := next[series]; !begun {
			next[series] = c.totals[series]
		}
		next[series] += n - min(c.seen[source], n)
		c.seen[source] = n
	}
	c.totals = next
	return next
}

// keep is what was seen of sources.
func keep[Source comparable](seen, sources map[Source]uint64) map[Source]uint64 {
	kept := make(map[Source]uint64, len(sources))
	for source := range sources {
		if n, ok := seen[source]; ok {
			kept[source] = n
		}
	}
	return kept
}
