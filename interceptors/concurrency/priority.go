package concurrency

import (
	"context"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Priority is the value of the metadata key that the policy names: how much a call
// matters (criticality in Google's Site Reliability Engineering, chapter 21). What
// matters less finds the limit reached sooner, so that there is room for the rest.
type Priority string

// The priorities, and the part of the limit that all calls under way may fill before
// one more of that priority is refused, rounded up.
const (
	CriticalPlus  Priority = "critical_plus"  // 100 %
	Critical      Priority = "critical"       // 90 %, and the default
	SheddablePlus Priority = "sheddable_plus" // 75 %
	Sheddable     Priority = "sheddable"      // 50 %
)

// percent is 0 for what is no priority.
func (p Priority) percent() int64 {
	switch p {
	case CriticalPlus:
		return 100
	case Critical:
		return 90
	case SheddablePlus:
		return 75
	case Sheddable:
		return 50
	default:
		return 0
	}
}

// of is the part of limit for p.
func (p Priority) of(limit int64) int64 { return (limit*p.percent() + 99) / 100 }

// priorityOf is that of a call. One that does not count is ignored and counted: unknown,
// or of a caller who is not trusted. Of a caller who is trusted and sends several, the
// error is INVALID_ARGUMENT.
func (p *part) priorityOf(ctx context.Context) (Priority, error) {
	value, err := interceptors.MetadataValue(ctx, interceptors.Server, p.rule.priority)
	given := Priority(value)
	switch {
	case value == "" && err == nil:
		return Critical, nil
	case !p.callers.Trusted(ctx):
		p.method.ignored.Add(1)
		return Critical, nil
	case err != nil:
		return "", err
	case given.percent() == 0:
		p.method.ignored.Add(1)
		return Critical, nil
	}
	return given, nil
}
