package retry

import (
	"cmp"
	"slices"
	"sync"
)

// maxMethods caps the methods whose budgets can be told, as chains do.
const maxMethods = 4096

// Stats is the budget of one method.
type Stats struct {
	Method string  // "/package.Service/Method"
	Budget float64 // retries that are left, up to 100
}

// Stats reads the budgets of the methods that have been called and may be tried again, by
// method. Of channels that share a Retry, it is that of the latest.
func (r *Retry) Stats() []Stats {
	r.budgets.mu.Lock()
	defer r.budgets.mu.Unlock()
	all := make([]Stats, 0, len(r.budgets.of))
	for method, b := range r.budgets.of {
		all = append(all, Stats{method, float64(b.tokens.Load()) / token})
	}
	slices.SortFunc(all, func(a, b Stats) int { return cmp.Compare(a.Method, b.Method) })
	return all
}

// budgets are those that hold now.
type budgets struct {
	mu sync.Mutex
	of map[string]*budget // by method
}

// set makes b the budget of a method; nil is that it is not tried again.
func (b *budgets) set(fullMethod string, now *budget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch _, known := b.of[fullMethod]; {
	case now == nil:
		delete(b.of, fullMethod)
	case b.of == nil:
		b.of = map[string]*budget{fullMethod: now}
	case known || len(b.of) < maxMethods:
		b.of[fullMethod] = now
	}
}
