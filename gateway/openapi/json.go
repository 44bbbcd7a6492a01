package openapi

import (
	"bytes"
	"encoding/json"
)

// member is one entry of a JSON object.
type member[V any] struct {
	name  string
	value V
}

// members is a JSON object that keeps its order, so that equal contracts give equal bytes.
type members[V any] []member[V]

func (m *members[V]) add(name string, value V) { *m = append(*m, member[V]{name, value}) }

// MarshalJSON writes the object.
func (m members[V]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := marshal(e.name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(e.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal writes v on one line and leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
