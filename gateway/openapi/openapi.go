// Package openapi describes what a gateway lets out: an OpenAPI 3.1 document made from
// descriptors, and a page on which a person reads it and tries a call.
//
//	document, err := openapi.Document(openapi.Info{Title: "Sweets"}, mux.Bindings())
//	http.Handle("/", openapi.Page("/openapi.json"))
//
// Messages appear as protojson writes them. Comments are in the document where the
// descriptors have source info: those of a descriptor set made by
// `buf build -o api.binpb` or `protoc --include_source_info --include_imports` do, those
// of reflection do not.
package openapi

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

// Bounds of a document.
const (
	maxBytes           = 32 << 20 // of the whole
	maxQueryParameters = 100      // of one operation
	maxExampleFields   = 60       // of one body
	maxComment         = 8 << 10  // bytes of one comment
)

// Info describes the API as a whole.
type Info struct {
	Title       string // "API" if empty
	Version     string // "1" if empty
	Description string
	// Bearer says that callers may send a bearer token.
	Bearer bool
	// BearerRequired says that calls without one are refused; it includes Bearer.
	BearerRequired bool
}

type document struct {
	OpenAPI    string            `json:"openapi"`
	Info       members[any]      `json:"info"`
	Servers    []members[any]    `json:"servers"`
	Security   []members[any]    `json:"security,omitempty"`
	Tags       []members[any]    `json:"tags,omitempty"`
	Paths      members[pathItem] `json:"paths"`
	Components components        `json:"components"`
}

type components struct {
	Schemas         members[*schema] `json:"schemas"`
	Responses       members[any]     `json:"responses"`
	SecuritySchemes members[any]     `json:"securitySchemes,omitempty"`
}

// pathItem holds operations by their HTTP method in lower case.
type pathItem = members[any]

type operation struct {
	Tags        []string     `json:"tags"`
	Summary     string       `json:"summary,omitempty"`
	Description string       `json:"description,omitempty"`
	OperationID string       `json:"operationId"`
	Deprecated  bool         `json:"deprecated,omitempty"`
	Parameters  []*parameter `json:"parameters,omitempty"`
	RequestBody *requestBody `json:"requestBody,omitempty"`
	Responses   members[any] `json:"responses"`
	GRPC        string       `json:"x-grpc-method"`
	WebSocket   *webSocket   `json:"x-websocket,omitempty"`
}

// webSocket describes the messages of one that takes a stream of requests, for which OpenAPI
// has no word.
type webSocket struct {
	Send    mediaType `json:"send"`
	Receive mediaType `json:"receive"`
}

type requestBody struct {
	Description string             `json:"description,omitempty"`
	Required    bool               `json:"required,omitempty"`
	Content     members[mediaType] `json:"content"`
}

type mediaType struct {
	Schema  *schema `json:"schema,omitempty"`
	Example *any    `json:"example,omitempty"` // a pointer, since null is an example
	// Item describes one message of a stream, for which OpenAPI 3.1 has no word.
	Item *schema `json:"x-item-schema,omitempty"`
}

type parameter struct {
	Name        string             `json:"name"`
	In          string             `json:"in"`
	Description string             `json:"description,omitempty"`
	Required    bool               `json:"required,omitempty"`
	Deprecated  bool               `json:"deprecated,omitempty"`
	Style       string             `json:"style,omitempty"`
	Explode     bool               `json:"explode,omitempty"`
	Schema      *schema            `json:"schema,omitempty"`
	Content     members[mediaType] `json:"content,omitempty"`
	Example     any                `json:"example,omitempty"`
}

// problemSchema has a name that no message can have.
const problemSchema = "gateway-problem"

// Document returns the OpenAPI 3.1 document of bindings. Equal bindings give equal bytes.
// Of two bindings that answer the same requests, the first is described.
// It fails if a template is malformed or names a field that is not there, or if the
// document would exceed 32 MiB.
func Document(about Info, bindings []transcode.Binding) ([]byte, error) {
	d := &builder{schemas: map[protoreflect.FullName]*schema{}, paths: map[string]*path{}, ids: map[string]int{}}
	for _, b := range arranged(bindings) {
		if err := d.add(b); err != nil {
			return nil, fmt.Errorf("%s %s of %s: %w", b.HTTPMethod, b.Template, b.Method.FullName(), err)
		}
	}
	text, err := marshal(d.document(about))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("the document of %d bindings has %d bytes, want at most %d: let out fewer services", len(bindings), len(text), maxBytes)
	}
	return text, nil
}

// arranged orders bindings by service and method.
func arranged(bindings []transcode.Binding) []transcode.Binding {
	sorted := slices.Clone(bindings)
	slices.SortStableFunc(sorted, func(a, b transcode.Binding) int {
		return cmp.Or(
			cmp.Compare(a.Method.Parent().FullName(), b.Method.Parent().FullName()),
			cmp.Compare(a.Method.Index(), b.Method.Index()))
	})
	return sorted
}

// builder collects the parts of one document.
type builder struct {
	order    []*path // as they came
	paths    map[string]*path
	services []protoreflect.ServiceDescriptor
	schemas  map[protoreflect.FullName]*schema
	ids      map[string]int
}

// path is a template as OpenAPI writes it, with its operations.
type path struct {
	text  string
	names []string // of its parameters, in order
	item  pathItem
	other pathItem // operations whose HTTP method OpenAPI does not have
}

func (p *path) has(method string) bool {
	return slices.ContainsFunc(slices.Concat(p.item, p.other), func(m member[any]) bool { return m.name == method })
}

var methods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

func (d *builder) add(b transcode.Binding) error {
	if b.Method.IsStreamingClient() {
		b.HTTPMethod, b.Template, b.Body, b.ResponseBody = http.MethodGet, "/"+grpcName(b.Method), "", ""
	}
	t, err := parseTemplate(b.Template)
	if err != nil {
		return err
	}
	p := d.paths[t.shape()]
	if p == nil {
		names := t.names()
		p = &path{text: t.text(names), names: names}
		d.paths[t.shape()] = p
		d.order = append(d.order, p)
	}
	method := strings.ToLower(b.HTTPMethod)
	if p.has(method) {
		return nil
	}
	op, err := d.operation(b, t, p.names)
	if err != nil {
		return err
	}
	if slices.Contains(methods, method) {
		p.item.add(method, op)
	} else {
		p.other.add(method, op)
	}
	service := b.Method.Parent().(protoreflect.ServiceDescriptor)
	if n := len(d.services); n == 0 || d.services[n-1].FullName() != service.FullName() {
		d.services = append(d.services, service)
	}
	return nil
}

func (d *builder) operation(b transcode.Binding, t template, names []string) (*operation, error) {
	m := b.Method
	service := m.Parent()
	text := comment(m)
	op := &operation{
		Tags:        []string{string(service.FullName())},
		Summary:     firstSentence(text),
		Description: text,
		OperationID: d.id(string(m.FullName())),
		Deprecated:  deprecated(m) || deprecated(service),
		GRPC:        "/" + grpcName(m),
	}
	if op.Description == op.Summary {
		op.Description = ""
	}
	if m.IsStreamingClient() {
		d.socket(op, m)
		return op, nil
	}
	r := newRequest(d, m.Input())
	if err := r.path(t, names); err != nil {
		return nil, err
	}
	body, err := r.body(b.Body)
	if err != nil {
		return nil, err
	}
	op.RequestBody = body
	if b.Body != "*" {
		r.query()
	}
	op.Parameters = r.parameters
	if r.cut {
		op.Description = paragraphs(cmp.Or(op.Description, op.Summary), "The query may set more fields than are listed, each by its path.")
	}
	op.Responses, err = d.responses(m, b.ResponseBody)
	return op, err
}

// grpcName is what gRPC calls m by.
func grpcName(m protoreflect.MethodDescriptor) string {
	return string(m.Parent().FullName()) + "/" + string(m.Name())
}

// socket describes op as a WebSocket, which is how a stream of requests is sent.
func (d *builder) socket(op *operation, m protoreflect.MethodDescriptor) {
	e := examples{request: newRequest(d, m.Input()), left: maxExampleFields}
	example := e.message(m.Input(), nil, "")
	op.WebSocket = &webSocket{Send: mediaType{Schema: d.message(m.Input()), Example: &example}, Receive: mediaType{Schema: d.message(m.Output())}}
	op.Description = paragraphs(cmp.Or(op.Description, op.Summary), "Open a WebSocket here. Each text is a message as JSON; an empty one ends yours. "+
		"The close code is 1000, or 4000 and the code of gRPC.")
	op.Responses = members[any]{
		{"101", members[any]{{"description", "The WebSocket is open."}}},
		{"default", &schema{Ref: "#/components/responses/" + problemSchema}},
	}
}

// id makes the name of an operation: that of the method, numbered from its second binding.
func (d *builder) id(method string) string {
	d.ids[method]++
	if n := d.ids[method]; n > 1 {
		return fmt.Sprintf("%s-%d", method, n)
	}
	return method
}

func (d *builder) responses(m protoreflect.MethodDescriptor, field string) (members[any], error) {
	answer := d.message(m.Output())
	if field != "" {
		fields, err := walk(m.Output(), field)
		if err != nil {
			return nil, fmt.Errorf("response_body: %w", err)
		}
		answer = d.field(fields[len(fields)-1])
	}
	var content members[mediaType]
	description := firstSentence(comment(m.Output()))
	if m.IsStreamingServer() {
		description = "Messages as they come: one a line as JSON, or server-sent events if Accept names text/event-stream. " +
			"A last line or event of error holds what ended them."
		for _, kind := range []string{"application/x-ndjson", "text/event-stream"} {
			content.add(kind, mediaType{Schema: &schema{Type: "string"}, Item: answer})
		}
	} else {
		content.add("application/json", mediaType{Schema: answer})
	}
	return members[any]{
		{"200", members[any]{{"description", cmp.Or(description, "The answer.")}, {"content", content}}},
		{"default", &schema{Ref: "#/components/responses/" + problemSchema}},
	}, nil
}

func (d *builder) document(about Info) document {
	doc := document{
		OpenAPI: "3.1.0",
		Info:    members[any]{{"title", cmp.Or(about.Title, "API")}, {"version", cmp.Or(about.Version, "1")}},
		Servers: []members[any]{{{"url", "/"}}},
	}
	if about.Description != "" {
		doc.Info.add("description", about.Description)
	}
	for _, s := range d.services {
		tag := members[any]{{"name", string(s.FullName())}}
		if text := comment(s); text != "" {
			tag.add("description", text)
		}
		doc.Tags = append(doc.Tags, tag)
	}
	for _, p := range d.order {
		if len(p.other) > 0 {
			p.item.add("x-operations", p.other)
		}
		doc.Paths.add(p.text, p.item)
	}
	if about.Bearer || about.BearerRequired {
		doc.Components.SecuritySchemes.add("bearer", members[any]{{"type", "http"}, {"scheme", "bearer"}})
		if !about.BearerRequired {
			doc.Security = append(doc.Security, members[any]{})
		}
		doc.Security = append(doc.Security, members[any]{{"bearer", []string{}}})
	}
	for _, name := range sortedKeys(d.schemas) {
		doc.Components.Schemas.add(string(name), d.schemas[name])
	}
	doc.Components.Schemas.add(problemSchema, problemType())
	doc.Components.Responses.add(problemSchema, members[any]{
		{"description", "An error, as problem details (RFC 9457)."},
		{"content", members[mediaType]{{problem.ContentType, mediaType{Schema: componentRef(problemSchema)}}}},
	})
	return doc
}

// problemType describes problem.Problem.
func problemType() *schema {
	return &schema{
		Type:     "object",
		Required: []string{"title", "status"},
		Properties: members[*schema]{
			{"title", &schema{Type: "string", Description: "What kind of error it is."}},
			{"status", &schema{Type: "integer", Description: "The HTTP status, such as " + fmt.Sprint(http.StatusNotFound) + "."}},
			{"detail", &schema{Type: "string", Description: "What is wrong, for a person."}},
			{"code", &schema{Type: "string", Description: "The code of gRPC, such as NOT_FOUND."}},
			{"field", &schema{Type: "string", Description: "The path of the request's field that is wrong."}},
			{"details", &schema{Type: "array", Description: "Messages of google.rpc, each with its @type.", Items: &schema{Type: "object"}}},
		},
	}
}

// deprecated reports whether the contract marks d so.
func deprecated(d protoreflect.Descriptor) bool {
	o, ok := d.Options().(interface{ GetDeprecated() bool })
	return ok && o.GetDeprecated()
}
