package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"
)

// Split is one split of a service-splitter.
type Split struct {
	Weight  float64 `json:"weight"`            // percent, in steps of 0.01
	Service string  `json:"service,omitempty"` // empty is the service of the splitter
	Subset  string  `json:"subset,omitempty"`  // empty is the default subset
}

// Name is the subset, or else the service of the split; "" for the service of the splitter.
func (s Split) Name() string {
	if s.Subset != "" {
		return s.Subset
	}
	return s.Service
}

// Splitter is the service-splitter of a service.
type Splitter struct {
	Service string
	Splits  []Split // none: there is no such entry

	entry *api.ServiceSplitterConfigEntry // with what Splits do not have
}

// ErrChanged is the error of a write after somebody else has written.
var ErrChanged = errors.New("the entry was changed meanwhile")

// Splitter reads the service-splitter of service.
func (d *Directory) Splitter(ctx context.Context, service string) (*Splitter, error) {
	if err := checkName("service", service); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s := &Splitter{Service: service, entry: &api.ServiceSplitterConfigEntry{Kind: api.ServiceSplitter, Name: service}}
	entry, _, err := d.api.ConfigEntries().Get(api.ServiceSplitter, service, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	switch {
	case err != nil && statusOf(err) == http.StatusNotFound:
		return s, nil
	case err != nil:
		return nil, d.explain(err, fmt.Sprintf("service:read on %q", service))
	}
	found, ok := entry.(*api.ServiceSplitterConfigEntry)
	if !ok {
		return nil, fmt.Errorf("%s answered with a %T instead of a service-splitter", d.Name(), entry)
	}
	s.entry = found
	for _, split := range found.Splits {
		s.Splits = append(s.Splits, Split{float64(split.Weight), split.Service, split.ServiceSubset})
	}
	return s, nil
}

// WriteSplits replaces the splits of s, as long as the entry is still the one that was read: else
// the error is [ErrChanged]. A split that stays keeps its header modifiers. No splits delete the
// entry. It returns the entry as it is then.
func (d *Directory) WriteSplits(ctx context.Context, s *Splitter, splits []Split) (*Splitter, error) {
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := new(api.WriteOptions).WithContext(bounded)
	entries := d.api.ConfigEntries()
	var done bool
	var err error
	if len(splits) == 0 {
		done, _, err = entries.DeleteCAS(api.ServiceSplitter, s.Service, s.entry.ModifyIndex, options)
	} else {
		entry := *s.entry
		entry.Splits = s.with(splits)
		done, _, err = entries.CAS(&entry, s.entry.ModifyIndex, options)
	}
	switch {
	case err != nil:
		return nil, d.refused(err, s.Service)
	case !done:
		return nil, fmt.Errorf("service-splitter of %q: %w: read it again", s.Service, ErrChanged)
	}
	return d.Splitter(ctx, s.Service)
}

// refused explains a failed write. Consul answers an entry that is wrong with 500 and what is wrong,
// such as a subset that the resolver does not have.
func (d *Directory) refused(err error, service string) error {
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusInternalServerError && !leaderless.MatchString(status.Body) {
		return fmt.Errorf("%s refuses the service-splitter of %q: %q", d.Name(), service, d.brief(status.Body))
	}
	return d.explain(err, fmt.Sprintf("service:write on %q", service))
}

// with are the splits for Consul.
func (s *Splitter) with(splits []Split) []api.ServiceSplit {
	all := make([]api.ServiceSplit, len(splits))
	for i, split := range splits {
		for _, old := range s.entry.Splits {
			if old.Service == split.Service && old.ServiceSubset == split.Subset {
				all[i] = old
				break
			}
		}
		all[i].Weight, all[i].Service, all[i].ServiceSubset = float32(split.Weight), split.Service, split.Subset
	}
	return all
}
