package intention

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// MaxIntentions bounds the intentions of one destination.
const MaxIntentions = 10_000

// document is an intention as Consul's HTTP API has it. A field that is not here could be a
// further condition, so an intention that has one is refused.
type document struct {
	SourceName, DestinationName           string
	SourceNS, DestinationNS               string
	SourcePartition, DestinationPartition string
	SourcePeer, SourceSamenessGroup       string
	SourceType                            string
	Action                                Action
	Permissions                           []*permissionDocument
	JWT                                   json.RawMessage

	// What decides nothing. Precedence follows from the names.
	ID, Description, DefaultAddr, DefaultPort, Meta, Precedence, CreatedAt, UpdatedAt, Hash, CreateIndex, ModifyIndex ignored
}

type permissionDocument struct {
	Action Action
	HTTP   *struct {
		PathExact, PathPrefix, PathRegex string
		Methods                          []string
		Header                           []*Header
	}
	JWT json.RawMessage
}

// ignored is a value of any type.
type ignored struct{}

func (ignored) UnmarshalJSON([]byte) error { return nil }

// Parse reads a list of intentions, as Consul's /v1/connect/intentions/match has for each
// name. An intention that is not understood is refused, not an error: see [Intention.Refused].
// One without names, and what is no list, are errors.
func Parse(list []byte) ([]Intention, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(list, &raw); err != nil {
		return nil, fmt.Errorf("intentions: want a list: %w", err)
	}
	if len(raw) > MaxIntentions {
		return nil, fmt.Errorf("intentions: %d of one destination: write %d at most, and wildcards", len(raw), MaxIntentions)
	}
	parsed := make([]Intention, 0, len(raw))
	for i, one := range raw {
		read, err := parseOne(one)
		if err != nil {
			return nil, fmt.Errorf("intentions[%d]: %w", i, err)
		}
		parsed = append(parsed, read)
	}
	return parsed, nil
}

func parseOne(raw json.RawMessage) (Intention, error) {
	var names struct{ SourceName, DestinationName string }
	if err := json.Unmarshal(raw, &names); err != nil {
		return Intention{}, err
	}
	if names.SourceName == "" || names.DestinationName == "" {
		return Intention{}, fmt.Errorf("SourceName %q, DestinationName %q: want both", names.SourceName, names.DestinationName)
	}
	parsed := Intention{Source: names.SourceName, Destination: names.DestinationName}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	var read document
	if err := strict.Decode(&read); err != nil {
		parsed.Refused = err.Error()
		return parsed, nil
	}
	parsed.Action, parsed.Elsewhere = read.Action, read.elsewhere()
	parsed.Refused = read.refused()
	for _, p := range read.Permissions {
		if parsed.Refused != "" {
			break
		}
		parsed.Permissions = append(parsed.Permissions, p.permission())
	}
	return parsed, nil
}

// home reports whether a namespace or partition is the default one.
func home(name string) bool { return name == "" || name == "default" }

// elsewhere is why the source is nobody of the default namespace and partition.
func (d *document) elsewhere() string {
	switch {
	case d.SourcePeer != "":
		return fmt.Sprintf("SourcePeer %q: peers are not supported", d.SourcePeer)
	case !home(d.SourceNS) && d.SourceNS != Wildcard:
		return fmt.Sprintf("SourceNS %q: namespaces are not supported", d.SourceNS)
	case !home(d.SourcePartition):
		return fmt.Sprintf("SourcePartition %q: partitions are not supported", d.SourcePartition)
	}
	return ""
}

func (d *document) refused() string {
	switch {
	case d.SourceSamenessGroup != "":
		return fmt.Sprintf("SourceSamenessGroup %q: sameness groups are not supported", d.SourceSamenessGroup)
	case !home(d.DestinationNS) && d.DestinationNS != Wildcard:
		return fmt.Sprintf("DestinationNS %q: namespaces are not supported", d.DestinationNS)
	case !home(d.DestinationPartition):
		return fmt.Sprintf("DestinationPartition %q: partitions are not supported", d.DestinationPartition)
	case d.SourceType != "" && d.SourceType != "consul":
		return fmt.Sprintf("SourceType %q: only consul is supported", d.SourceType)
	case given(d.JWT):
		return "JWT: tokens are not verified here"
	}
	for i, p := range d.Permissions {
		switch {
		case p == nil || p.HTTP == nil:
			return fmt.Sprintf("Permissions[%d]: only HTTP is supported", i)
		case given(p.JWT):
			return fmt.Sprintf("Permissions[%d].JWT: tokens are not verified here", i)
		case slices.Contains(p.HTTP.Header, nil):
			return fmt.Sprintf("Permissions[%d].HTTP.Header: null", i)
		}
	}
	return ""
}

func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

func (p *permissionDocument) permission() Permission {
	read := Permission{
		Action: p.Action, PathExact: p.HTTP.PathExact, PathPrefix: p.HTTP.PathPrefix, PathRegex: p.HTTP.PathRegex,
		Methods: p.HTTP.Methods,
	}
	for _, h := range p.HTTP.Header {
		read.Headers = append(read.Headers, *h)
	}
	return read
}
