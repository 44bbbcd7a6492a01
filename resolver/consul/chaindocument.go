package consul

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// chainDocument is a compiled discovery chain as Consul's HTTP API has it. A field that is not
// here could mean something, so an answer that has one is refused. Any pointer may be nil.
type chainDocument struct {
	ServiceName, Namespace, Partition, Datacenter string
	Default                                       bool
	ServiceMeta                                   map[string]string
	StartNode, Protocol                           string
	Nodes                                         map[string]*chainNode
	Targets                                       map[string]*chainTarget

	// What decides nothing here. Extensions patch Envoy's configuration.
	CustomizationHash, EnvoyExtensions, AutoVirtualIPs, ManualVirtualIPs anything
}

type chainNode struct {
	Type, Name   string
	Routes       []*chainRoute
	Splits       []*chainSplit
	Resolver     *chainResolver
	LoadBalancer *chainLoadBalancer
}

type chainRoute struct {
	Definition *struct {
		Match       *struct{ HTTP *chainMatch }
		Destination *chainDestination
	}
	NextNode string
}

type chainMatch struct {
	PathExact, PathPrefix, PathRegex string
	CaseInsensitive                  bool
	Header                           []*struct {
		Name, Exact, Prefix, Suffix, Contains, Regex string
		Present, Invert, IgnoreCase                  bool
	}
	QueryParam []*struct {
		Name, Exact, Regex string
		Present            bool
	}
	Methods []string
}

type chainDestination struct {
	PrefixRewrite               string
	RequestTimeout, IdleTimeout duration

	NumRetries            uint32
	RetryOnConnectFailure bool
	RetryOn               []string
	RetryOnStatusCodes    []uint32

	RequestHeaders, ResponseHeaders *chainHeaders

	Namespace, Partition string

	// The next node says where they lead.
	Service, ServiceSubset anything
}

type chainHeaders struct {
	Add, Set map[string]string
	Remove   []string
}

type chainSplit struct {
	Definition *struct {
		Service, ServiceSubset          string
		Namespace, Partition            string
		RequestHeaders, ResponseHeaders *chainHeaders
		// That beside the definition is of the flattened splitters.
		Weight anything
	}
	Weight   float64
	NextNode string
}

type chainResolver struct {
	RequestTimeout duration
	Target         string
	Failover       *struct {
		Targets []string
		Policy  *struct {
			Mode    string
			Regions []string
		}
		Regions []string
	}
	// The target has the latter, too.
	Default, ConnectTimeout anything
}

type chainLoadBalancer struct {
	Policy             string
	RingHashConfig     *struct{ MinimumRingSize, MaximumRingSize uint64 }
	LeastRequestConfig *struct{ ChoiceCount uint32 }
	HashPolicies       []*struct {
		Field, FieldValue string
		SourceIP          bool
		CookieConfig      *struct {
			Session bool
			TTL     duration
			Path    string
		}
		Terminal anything // of more policies than one
	}
}

type chainTarget struct {
	ID, Service, ServiceSubset, Namespace, Partition, Datacenter, Peer string
	Subset                                                             struct {
		Filter      string
		OnlyPassing bool
	}
	ConnectTimeout       duration
	MeshGateway          struct{ Mode string }
	External             bool
	PrioritizeByLocality *struct{ Mode string }

	// What is of proxies, and of peers.
	SNI, Name, Locality, TransparentProxy anything
}

// duration is a text such as "5s", or a number of nanoseconds: Consul writes both.
type duration time.Duration

func (d *duration) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return json.Unmarshal(raw, (*time.Duration)(d))
	}
	if text == "" {
		return nil
	}
	parsed, err := time.ParseDuration(text)
	*d = duration(parsed)
	return err
}

// unknownFields returns the paths of fields in raw that t does not have, unless they are empty
// and so can mean nothing. Each path begins with at.
func unknownFields(raw json.RawMessage, t reflect.Type, at string) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	var found []string
	switch t.Kind() {
	case reflect.Struct:
		for _, name := range fieldsOf(raw) {
			field, known := t.FieldByNameFunc(func(known string) bool { return strings.EqualFold(known, name.key) })
			switch {
			case known:
				found = append(found, unknownFields(name.value, field.Type, at+"."+name.key)...)
			case !isEmpty(name.value):
				found = append(found, at+"."+name.key)
			}
		}
	case reflect.Map:
		for _, item := range fieldsOf(raw) {
			found = append(found, unknownFields(item.value, t.Elem(), fmt.Sprintf("%s[%q]", at, item.key))...)
		}
	case reflect.Slice:
		var items []json.RawMessage
		_ = json.Unmarshal(raw, &items) // another type is the decoder's to report
		for i, item := range items {
			found = append(found, unknownFields(item, t.Elem(), fmt.Sprintf("%s[%d]", at, i))...)
		}
	}
	return found
}

type rawField struct {
	key   string
	value json.RawMessage
}

// fieldsOf returns the fields of an object by their names.
func fieldsOf(raw json.RawMessage) []rawField {
	var object map[string]json.RawMessage
	_ = json.Unmarshal(raw, &object)
	var fields []rawField
	for key, value := range object {
		fields = append(fields, rawField{key, value})
	}
	slices.SortFunc(fields, func(a, b rawField) int { return strings.Compare(a.key, b.key) })
	return fields
}

func isEmpty(raw json.RawMessage) bool {
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return false
	}
	switch value := value.(type) {
	case []any:
		return len(value) == 0
	case map[string]any:
		return len(value) == 0
	default:
		return value == nil || value == "" || value == 0.0 || value == false
	}
}
