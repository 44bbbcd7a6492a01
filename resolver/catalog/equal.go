package catalog

import (
	"maps"
	"net/url"
	"slices"
)

// Key is equal for queries that have the same answer, and tells what is not as by
// default: "service=catalog&tag=fast". The order of tags does not matter to
// Consul, so it does not matter here.
func (q Query) Key() string {
	values := url.Values{}
	add := func(key, value string) {
		if value != "" {
			values.Add(key, value)
		}
	}
	add("service", q.Service)
	for _, tag := range slices.Compact(slices.Sorted(slices.Values(q.Tags))) {
		values.Add("tag", tag)
	}
	add("dc", q.Datacenter)
	add("near", q.Near)
	add("filter", q.Filter)
	if q.Warning {
		add("warning", "true")
	}
	if q.Consistency != Stale {
		add("consistency", q.Consistency.String())
	}
	return values.Encode()
}

// Equal reports whether nothing that is told of i and other differs.
func (i Instance) Equal(other Instance) bool {
	return i.ID == other.ID && i.Service == other.Service &&
		i.Node == other.Node && i.Datacenter == other.Datacenter && i.Address == other.Address &&
		slices.Equal(i.Tags, other.Tags) && maps.Equal(i.Metadata, other.Metadata) &&
		i.Weight == other.Weight && i.Status == other.Status &&
		i.Region == other.Region && i.Zone == other.Zone
}
