package logging

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/lines"
)

// maxLimits caps the methods that have a limit of their own, and maxName the length of
// their names: a proxy could be asked for any number. The others have one together.
const (
	maxLimits = 1024
	maxName   = 1024
)

// limits are those of lines, by method. They outlive changes of the policy.
type limits struct {
	mu    sync.Mutex // for adding
	known atomic.Pointer[map[limited]*lines.Limit]
}

type limited struct {
	side   interceptors.Side
	method string
}

func (l *limits) of(side interceptors.Side, method string, most int) *lines.Limit {
	key := limited{side, method}
	if limit := l.find(key); limit != nil {
		return limit
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(method) > maxName || l.known.Load() != nil && len(*l.known.Load()) >= maxLimits {
		key = limited{} // no side, and so no method
	}
	if limit := l.find(key); limit != nil {
		return limit
	}
	more := map[limited]*lines.Limit{key: lines.New(most)}
	if known := l.known.Load(); known != nil {
		maps.Copy(more, *known)
	}
	l.known.Store(&more)
	return more[key]
}

func (l *limits) find(key limited) *lines.Limit {
	if known := l.known.Load(); known != nil {
		return (*known)[key]
	}
	return nil
}
