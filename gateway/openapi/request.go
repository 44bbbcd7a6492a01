package openapi

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// request describes what one binding takes. Each field of the message is set by the path,
// by the body or by the query, in this order.
type request struct {
	d          *builder
	message    protoreflect.MessageDescriptor
	parameters []*parameter
	bound      map[string]bool              // paths of fields that path or body set
	chosen     map[string]protoreflect.Name // member of each oneof, by its path, that the examples set
	visited    int                          // fields that the query has looked at
	cut        bool                         // the query may set more than is described
}

func newRequest(d *builder, m protoreflect.MessageDescriptor) *request {
	return &request{d: d, message: m, bound: map[string]bool{}, chosen: map[string]protoreflect.Name{}}
}

// choose notes that the examples set f below path, unless they set another member of its oneof.
func (r *request) choose(path string, f protoreflect.FieldDescriptor) bool {
	o := oneofOf(f)
	if o == nil {
		return true
	}
	key := path + string(o.Name())
	if member, set := r.chosen[key]; set && member != f.Name() {
		return false
	}
	r.chosen[key] = f.Name()
	return true
}

func (r *request) bind(path string) ([]protoreflect.FieldDescriptor, error) {
	fields, err := walk(r.message, path)
	if err != nil {
		return nil, err
	}
	r.bound[pathOf(fields)] = true
	at := ""
	for _, f := range fields {
		r.choose(at, f)
		at += string(f.Name()) + "."
	}
	return fields, nil
}

// pathOf joins names as the contract has them.
func pathOf(fields []protoreflect.FieldDescriptor) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = string(f.Name())
	}
	return strings.Join(names, ".")
}

// path describes the wildcards of a template, named so.
func (r *request) path(t template, names []string) error {
	next := 0
	for _, s := range t.segments {
		if s.variable != "" {
			if _, err := r.bind(s.variable); err != nil {
				return err
			}
		}
		if !s.wildcard {
			continue
		}
		p := &parameter{Name: names[next], In: "path", Required: true, Schema: &schema{Type: "string", Pattern: "^[^/]+$"}, Example: "string"}
		next++
		r.parameters = append(r.parameters, p)
		if s.rest {
			p.Schema.Pattern = ""
			p.Description = "The rest of the path: none, one or several segments with slashes between them."
		}
		if s.variable == "" {
			continue
		}
		fields, _ := walk(r.message, s.variable)
		f := fields[len(fields)-1]
		if !s.whole {
			p.Description = paragraphs(comment(f), fmt.Sprintf("Part of `%s`, which is `%s`.", s.variable, t.form(s.variable, names)), p.Description)
			continue
		}
		p.Description = paragraphs(comment(f), p.Description)
		if p.Name != s.variable { // another binding has named it
			p.Description = paragraphs(p.Description, fmt.Sprintf("Sets `%s`.", s.variable))
		}
		p.Deprecated = deprecated(f)
		if f.Kind() != protoreflect.StringKind {
			p.Schema = r.d.single(f)
			p.Example = scalarExample(f)
		}
	}
	return nil
}

// body describes the body of a binding whose rule says so.
func (r *request) body(rule string) (*requestBody, error) {
	b := &requestBody{Required: true}
	e := examples{request: r, left: maxExampleFields}
	var s *schema
	var example any
	switch rule {
	case "":
		return nil, nil
	case "*":
		s = r.rest(r.message, "")
		example = e.message(r.message, nil, "")
	default:
		fields, err := walk(r.message, rule)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		f, at := fields[len(fields)-1], pathOf(fields)
		s = r.restOf(f, at)
		b.Description, s.Description = s.Description, ""
		example = e.field(f, nil, strings.TrimSuffix(at, string(f.Name())))
		if _, err := r.bind(rule); err != nil {
			return nil, err
		}
	}
	b.Content.add("application/json", mediaType{Schema: s, Example: &example})
	return b, nil
}

// rest returns the schema of m, which is at path, without the fields that the path of the
// request sets.
func (r *request) rest(m protoreflect.MessageDescriptor, path string) *schema {
	whole := r.d.message(m)
	if !r.sets(path) {
		return whole
	}
	s := *r.d.schemas[m.FullName()]
	s.Properties, s.Required = nil, nil
	for f := range each(m.Fields()) {
		at := path + string(f.Name())
		if r.bound[at] {
			continue
		}
		s.Properties.add(f.JSONName(), r.restOf(f, at))
		if required(f) {
			s.Required = append(s.Required, f.JSONName())
		}
	}
	return &s
}

// restOf returns the schema of f, which is at path.
func (r *request) restOf(f protoreflect.FieldDescriptor, path string) *schema {
	s := r.d.field(f)
	inner := plainMessage(f)
	if inner == nil || !r.sets(path+".") {
		return s
	}
	rest := r.rest(inner, path+".")
	rest.Description, rest.Deprecated, rest.ReadOnly, rest.WriteOnly = s.Description, s.Deprecated, s.ReadOnly, s.WriteOnly
	return rest
}

// sets reports whether the path of the request sets a field below path.
func (r *request) sets(path string) bool {
	for at := range r.bound {
		if strings.HasPrefix(at, path) {
			return true
		}
	}
	return false
}

// query describes the fields that neither path nor body sets.
func (r *request) query() { r.queryFields(r.message, nil, "", "", false) }

// queryFields adds the fields of m, which is at path. An example of a field in excluded
// would contradict another one's.
func (r *request) queryFields(m protoreflect.MessageDescriptor, above []protoreflect.FullName, path, name string, excluded bool) {
	above = append(slices.Clip(above), m.FullName())
	for f := range each(m.Fields()) {
		at := path + string(f.Name())
		if r.bound[at] {
			continue
		}
		if r.visited++; r.visited > 100*maxQueryParameters || len(r.parameters) >= maxQueryParameters {
			r.cut = true
			return
		}
		excluded := excluded || !r.choose(path, f)
		if inner := plainMessage(f); inner != nil {
			if slices.Contains(above, inner.FullName()) {
				r.cut = true
				continue
			}
			r.queryFields(inner, above, at+".", name+queryName(f)+".", excluded)
			continue
		}
		if p := r.queryField(f, m); p != nil {
			p.Name = name + queryName(f)
			if excluded && p.Schema != nil {
				p.Schema.Examples, p.Example = []any{p.Example}, nil
			}
			if excluded && p.Schema == nil {
				p.Content[0].value.Example = nil
			}
			r.parameters = append(r.parameters, p)
		}
	}
}

// plainMessage returns the message of a field whose own fields a query sets, or nil.
func plainMessage(f protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if m := f.Message(); m != nil && f.Cardinality() != protoreflect.Repeated && wellKnown(m.FullName()) == nil {
		return m
	}
	return nil
}

// queryField describes f of m, or returns nil if no query can set it.
func (r *request) queryField(f protoreflect.FieldDescriptor, m protoreflect.MessageDescriptor) *parameter {
	value := f
	if f.IsMap() {
		value = f.MapValue()
	}
	if e := value.Enum(); e != nil && e.FullName() == "google.protobuf.NullValue" {
		return nil
	}
	p := &parameter{In: "query", Required: required(f)}
	e := examples{request: r, left: maxExampleFields}
	if inner := value.Message(); inner != nil {
		switch inner.FullName() {
		case "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Empty":
			if f.Cardinality() == protoreflect.Repeated {
				return nil
			}
			s := r.d.field(f)
			p.Description, s.Description, p.Deprecated = s.Description, "", s.Deprecated
			example := e.single(f, nil, "")
			p.Content.add("application/json", mediaType{Schema: s, Example: &example})
			return p
		case "google.protobuf.Any", "google.protobuf.ListValue":
			return nil
		}
		if wellKnown(inner.FullName()) == nil {
			return nil
		}
	}
	s := r.d.field(f)
	p.Description, s.Description = s.Description, ""
	p.Deprecated, s.Deprecated = s.Deprecated, false
	p.Schema, p.Example = s, e.field(f, nil, "")
	if f.IsMap() {
		p.Style, p.Explode = "deepObject", true
	}
	return p
}
