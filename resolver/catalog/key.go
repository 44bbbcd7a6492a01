package catalog

import (
	"net/url"
	"slices"
	"strconv"
)

// Key is equal for queries that have the same answer. The order of tags does
// not matter to Consul, so it does not matter here.
func (q Query) Key() string {
	tags := slices.Sorted(slices.Values(q.Tags))
	return url.Values{
		"service": {q.Service},
		"tag":     slices.Compact(tags),
		"dc":      {q.Datacenter},
		"near":    {q.Near},
		"filter":  {q.Filter},
		"warning": {strconv.FormatBool(q.Warning)},
		"read":    {q.Consistency.String()},
	}.Encode()
}
