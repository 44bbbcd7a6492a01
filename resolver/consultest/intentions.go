//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

const (
	wildcard        = "*"
	intentionsKind  = "service-intentions"
	maxIntentionsOf = 10000 // sources of one destination
	maxDestinations = 10000
	actionAllow     = "allow"
	actionDeny      = "deny"
)

// intentionEntry is a service-intentions config entry.
type intentionEntry struct {
	entryHead
	Sources        []intentionSource
	JWT            json.RawMessage `json:",omitempty"`
	create, modify uint64
}

// intentionSource is a source of a config entry, with what this package does not decide about
// as it was written.
type intentionSource struct {
	Name, Action, Type, Description, Peer string
	Permissions                           json.RawMessage
}

// intention is one in answers.
type intention struct {
	Description     string          `json:",omitempty"`
	SourceNS        string          // always default
	SourceName      string          //
	DestinationNS   string          // always default
	DestinationName string          //
	SourcePeer      string          `json:",omitempty"`
	SourceType      string          // always consul
	Action          string          `json:",omitempty"`
	Permissions     json.RawMessage `json:",omitempty"`
	JWT             json.RawMessage `json:",omitempty"`
	Precedence      int
	CreateIndex     uint64
	ModifyIndex     uint64
}

func (st *state) putIntentions(entry intentionEntry) error {
	if err := entry.check(); err != nil {
		return err
	}
	if old := st.intentions[entry.Name]; old != nil {
		entry.create = old.create
	} else if len(st.intentions) == maxDestinations {
		return httpError{http.StatusInsufficientStorage, fmt.Sprintf("the store of intentions is full: it holds at most %d destinations", maxDestinations)}
	}
	entry.modify = st.next()
	entry.create = cmp.Or(entry.create, entry.modify)
	st.intentions[entry.Name], st.intentionsIndex = &entry, entry.modify
	st.wake()
	return nil
}

func (st *state) removeIntentions(destination string) {
	if st.intentions[destination] != nil {
		delete(st.intentions, destination)
		st.intentionsIndex = st.next()
		st.wake()
	}
}

// check is what Consul checks, as far as it matters here.
func (e *intentionEntry) check() error {
	switch {
	case e.Name == "":
		return errors.New("Name is required")
	case len(e.Sources) == 0:
		return errors.New("At least one source is required")
	case len(e.Sources) > maxIntentionsOf:
		return fmt.Errorf("at most %d sources", maxIntentionsOf)
	}
	for i, source := range e.Sources {
		switch {
		case source.Name == "":
			return fmt.Errorf("Sources[%d].Name is required", i)
		case len(source.Permissions) > 0 && source.Action != "":
			return fmt.Errorf("Sources[%d].Action must be omitted if Permissions are specified", i)
		case len(source.Permissions) > 0 && e.Name == wildcard:
			return fmt.Errorf("Sources[%d].Permissions cannot be specified on intentions with wildcarded destinations", i)
		case len(source.Permissions) == 0 && source.Action != actionAllow && source.Action != actionDeny:
			return fmt.Errorf("Sources[%d].Action must be set to 'allow' or 'deny'", i)
		}
	}
	return nil
}

// intentionsOf are those about destination, the one that decides first.
func (st *state) intentionsOf(destination string) []intention {
	var all []intention // null without any, as Consul answers
	for _, name := range slices.Compact([]string{destination, wildcard}) {
		entry := st.intentions[name]
		if entry == nil {
			continue
		}
		for _, source := range entry.Sources {
			all = append(all, intention{
				Description: source.Description, SourceNS: "default", SourceName: source.Name, DestinationNS: "default", DestinationName: name,
				SourcePeer: source.Peer, SourceType: "consul", Action: source.Action, Permissions: source.Permissions, JWT: entry.JWT,
				Precedence: precedence(source.Name, name), CreateIndex: entry.create, ModifyIndex: entry.modify,
			})
		}
	}
	slices.SortStableFunc(all, func(a, b intention) int {
		return cmp.Or(cmp.Compare(b.Precedence, a.Precedence), cmp.Compare(a.SourcePeer, b.SourcePeer), cmp.Compare(a.SourceName, b.SourceName))
	})
	return all
}

func precedence(source, destination string) int {
	n := 9
	if destination == wildcard {
		n = 6
	}
	if source == wildcard {
		n--
	}
	return n
}

// intentionsAPI answers /v1/connect/intentions/.
// https://developer.hashicorp.com/consul/api-docs/connect/intentions
type intentionsAPI struct{ *Server }

func (s intentionsAPI) match(w http.ResponseWriter, r *http.Request) (any, error) {
	q := r.URL.Query()
	names := q["name"]
	switch by := q.Get("by"); {
	case len(q["by"]) != 1:
		return nil, errors.New("required query parameter 'by' not set")
	case by == "source":
		return nil, errors.New("consultest: by=source is not supported: write by=destination")
	case by != "destination":
		return nil, errors.New("'by' parameter must be one of 'source' or 'destination'")
	case len(names) == 0:
		return nil, errors.New("required query parameter 'name' not set")
	}
	for _, name := range names {
		if err := s.require(r, "intention:read", name); err != nil {
			return nil, err
		}
	}
	matches := map[string][]intention{}
	err := s.read(w, r, func(st *state) uint64 {
		for _, name := range names {
			matches[name] = st.intentionsOf(name)
		}
		return max(st.intentionsIndex, 1)
	})
	if err != nil {
		return nil, err
	}
	return matches, nil
}
