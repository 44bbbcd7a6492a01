package transcode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/problem"
)

// Service is a service of the mesh that is offered over HTTP.
type Service struct {
	Name     string // in the directory; for logs and metrics
	Conn     grpc.ClientConnInterface
	Contract *contract.Contract
	Offers   func(protoreflect.MethodDescriptor) bool        // which methods are let out; nil is none
	Cache    func(protoreflect.MethodDescriptor) CachePolicy // what the effective policy says, read for each answer; nil is none
}

// CachePolicy is for how long and for whom the answers of a method may be stored.
type CachePolicy struct {
	TTL      time.Duration                // 0 is not at all
	Public   bool                         // the answer is the same for all callers
	Vary     []string                     // metadata keys, which are names of headers too
	Negative map[codes.Code]time.Duration // ttl of failures; others are not stored
}

// Config is what a [Mux] serves, and its bounds. The zero value of a bound is its default.
type Config struct {
	Services []Service

	// Metadata returns what is sent to a backend with the call of a request. Nothing else of
	// the request's headers is sent; nil is nothing.
	Metadata func(*http.Request) metadata.MD
	// Headers are the keys of response metadata that become headers of the answer.
	Headers []string
	// Origins are patterns of hosts, such as "*.example.com", whose pages may open WebSockets,
	// beside those of the request's own host.
	Origins []string

	MaxRequestBytes int           // of a body or a message of a stream; 4 MiB
	MaxDepth        int           // of JSON; 100
	Timeout         time.Duration // of a call whose caller sets none; 30 s. A stream then has MaxTimeout
	MaxTimeout      time.Duration // of any call; 1 h
	WriteTimeout    time.Duration // for which a caller may take a message of a stream; 30 s
	ShowInternal    bool          // shows the texts of internal errors to callers
	Logger          *slog.Logger  // for internal errors; slog.Default()
}

// method is a gRPC method with what its calls need, made once.
type method struct {
	mux           *Mux
	service       *Service
	desc          protoreflect.MethodDescriptor
	path          string
	noSideEffects bool
	reading       protojson.UnmarshalOptions
	writing       protojson.MarshalOptions
	get, post     *route // of path; get is nil unless the method has no side effects
}

func (m *method) isStreaming() bool { return m.desc.IsStreamingClient() || m.desc.IsStreamingServer() }

// Mux serves one set of contracts over HTTP. It is immutable, and safe for concurrent use.
type Mux struct {
	config      Config
	headers     map[string]string // by metadata key
	rules       *runtime.ServeMux
	httpMethods []string           // that rules has
	methods     map[string]*method // by path
	bindings    []Binding
}

// New makes a Mux. An error names the service and method, and what is wrong with it.
func New(config Config) (*Mux, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	m := &Mux{config: config, methods: map[string]*method{}, headers: map[string]string{}}
	m.rules = runtime.NewServeMux(
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithRoutingErrorHandler(m.handleRoutingError),
		runtime.WithErrorHandler(m.handlePathError),
	)
	for _, name := range config.Headers {
		key := strings.ToLower(name)
		if !token.MatchString(key) || isReserved(key) {
			return nil, fmt.Errorf("transcode: Config.Headers has %q, which is the gateway's own: leave it out", name)
		}
		m.headers[key] = http.CanonicalHeaderKey(key)
	}
	var errs []error
	taken := map[string]string{}
	for i := range m.config.Services {
		errs = append(errs, m.addService(&m.config.Services[i], taken))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return m, nil
}

func (c *Config) setDefaults() error {
	for _, bound := range []struct {
		name string
		ok   bool
	}{
		{"MaxRequestBytes", c.MaxRequestBytes >= 0}, {"MaxDepth", c.MaxDepth >= 0},
		{"Timeout", c.Timeout >= 0}, {"MaxTimeout", c.MaxTimeout >= 0}, {"WriteTimeout", c.WriteTimeout >= 0},
	} {
		if !bound.ok {
			return fmt.Errorf("transcode: Config.%s is negative: give a bound, or 0 for the default", bound.name)
		}
	}
	setDefault(&c.MaxRequestBytes, 4<<20)
	setDefault(&c.MaxDepth, 100)
	setDefault(&c.Timeout, 30*time.Second)
	setDefault(&c.MaxTimeout, time.Hour)
	setDefault(&c.WriteTimeout, 30*time.Second)
	for _, pattern := range c.Origins {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("transcode: Config.Origins has %q, which is no pattern: write a host, such as *.example.com", pattern)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Metadata == nil {
		c.Metadata = func(*http.Request) metadata.MD { return nil }
	}
	c.Services = slices.Clone(c.Services)
	return nil
}

func setDefault[T comparable](bound *T, value T) {
	var zero T
	if *bound == zero {
		*bound = value
	}
}

func (m *Mux) addService(s *Service, taken map[string]string) error {
	if s.Conn == nil || s.Contract == nil {
		return fmt.Errorf("transcode: service %q has no connection or no contract: set Conn and Contract", s.Name)
	}
	if s.Offers == nil {
		return nil
	}
	types := resolver{s.Contract.Types}
	for _, desc := range s.Contract.Services {
		for i := range desc.Methods().Len() {
			if d := desc.Methods().Get(i); s.Offers(d) {
				if err := m.addMethod(s, d, types, taken); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (m *Mux) addMethod(s *Service, desc protoreflect.MethodDescriptor, types resolver, taken map[string]string) error {
	bindings, err := Bindings(desc)
	if err != nil {
		return err
	}
	added := &method{
		mux: m, service: s, desc: desc, path: pathOf(desc), noSideEffects: hasNoSideEffects(desc),
		reading: protojson.UnmarshalOptions{Resolver: types, RecursionLimit: m.config.MaxDepth + 10},
		writing: protojson.MarshalOptions{Resolver: types},
	}
	if m.methods[added.path] != nil {
		return fmt.Errorf("transcode: %s is offered by services %q and %q: let one of them offer it", desc.FullName(), m.methods[added.path].service.Name, s.Name)
	}
	m.methods[added.path] = added
	for _, b := range implicitBindings(desc) {
		if b.HTTPMethod == http.MethodGet {
			added.get = newRoute(added, b)
		} else {
			added.post = newRoute(added, b)
		}
	}
	m.bindings = append(m.bindings, bindings...)
	if bindings[0].Implicit {
		return nil
	}
	for _, b := range bindings {
		if err := m.addRule(newRoute(added, b), taken); err != nil {
			return err
		}
	}
	return nil
}

var variableName = regexp.MustCompile(`\{[^}=]*(=?)`)

func (m *Mux) addRule(rt *route, taken map[string]string) error {
	httpMethods := []string{rt.HTTPMethod}
	if rt.HTTPMethod == "*" {
		httpMethods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	}
	for _, httpMethod := range httpMethods {
		shape := httpMethod + " " + variableName.ReplaceAllString(rt.Template, "{$1")
		name := string(rt.Method.FullName())
		if other := taken[shape]; other != "" && other != name {
			return fmt.Errorf("transcode: %s and %s are both bound to %s %s: change the rule of one", other, name, httpMethod, rt.Template)
		}
		taken[shape] = name
		if err := m.rules.HandlePath(httpMethod, rt.Template, func(w http.ResponseWriter, r *http.Request, params map[string]string) {
			if probe, ok := w.(*probe); ok {
				probe.matched = true
				return
			}
			m.serve(w, r, rt, params)
		}); err != nil {
			return fmt.Errorf("transcode: %s: %w", name, err)
		}
		if !slices.Contains(m.httpMethods, httpMethod) {
			m.httpMethods = append(m.httpMethods, httpMethod)
		}
	}
	return nil
}

// Bindings returns the ways to call the methods that are let out, by service and in the order
// of the contracts. The POST path of a method with a rule is not among them.
func (m *Mux) Bindings() []Binding { return slices.Clone(m.bindings) }

// ServeHTTP serves a request by the binding that matches it.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer m.recoverPanic(w, r)
	if r.Method == http.MethodHead {
		w = headWriter{w}
	}
	if found := m.methods[r.URL.Path]; found != nil && r.URL.RawPath == "" {
		if found.desc.IsStreamingClient() && r.Method == http.MethodGet {
			m.serveWebSocket(w, r, found)
			return
		}
		if rt := found.routeOf(r.Method); rt != nil {
			m.serve(w, r, rt, nil)
			return
		}
	}
	switch {
	case r.Method == http.MethodOptions && !m.matches(http.MethodOptions, r):
		m.answerOptions(w, r)
	case r.Method == http.MethodHead && !m.matches(http.MethodHead, r):
		get := *r
		get.Method = http.MethodGet
		m.rules.ServeHTTP(w, &get)
	default:
		m.rules.ServeHTTP(w, r)
	}
}

// routeOf is the route of the method's own path.
func (m *method) routeOf(httpMethod string) *route {
	switch httpMethod {
	case http.MethodPost:
		return m.post
	case http.MethodGet, http.MethodHead:
		return m.get
	}
	return nil
}

// probe is a writer by which a request only asks whether there is a route for it.
type probe struct{ matched bool }

func (*probe) Header() http.Header         { return http.Header{} }
func (*probe) Write(b []byte) (int, error) { return len(b), nil }
func (*probe) WriteHeader(int)             {}

// matches reports whether a rule has the path of r with httpMethod.
func (m *Mux) matches(httpMethod string, r *http.Request) bool {
	if !slices.Contains(m.httpMethods, httpMethod) {
		return false
	}
	asked, probed := *r, probe{}
	asked.Method = httpMethod
	m.rules.ServeHTTP(&probed, &asked)
	return probed.matched
}

// allow lists the HTTP methods of the path of r, "" if it has none.
func (m *Mux) allow(r *http.Request) string {
	var all []string
	if found := m.methods[r.URL.Path]; found != nil && r.URL.RawPath == "" {
		all = append(all, http.MethodPost)
		if found.get != nil {
			all = append(all, http.MethodGet)
		}
	}
	for _, httpMethod := range m.httpMethods {
		if !slices.Contains(all, httpMethod) && m.matches(httpMethod, r) {
			all = append(all, httpMethod)
		}
	}
	if len(all) == 0 {
		return ""
	}
	if slices.Contains(all, http.MethodGet) && !slices.Contains(all, http.MethodHead) {
		all = append(all, http.MethodHead)
	}
	if !slices.Contains(all, http.MethodOptions) {
		all = append(all, http.MethodOptions)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (m *Mux) answerOptions(w http.ResponseWriter, r *http.Request) {
	allow := m.allow(r)
	if allow == "" {
		m.handleRoutingError(r.Context(), nil, nil, w, r, http.StatusNotFound)
		return
	}
	w.Header().Set("Allow", allow)
	w.WriteHeader(http.StatusNoContent)
}

// handleRoutingError answers a path or an HTTP method without a route.
func (m *Mux) handleRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, status int) {
	if _, ok := w.(*probe); ok {
		return
	}
	allow := m.allow(r)
	switch {
	case status == http.StatusBadRequest:
		problem.Write(w, problem.Problem{Status: status, Detail: "the path does not start with /"})
	case allow != "":
		w.Header().Set("Allow", allow)
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Detail: fmt.Sprintf("%s is served for %s", shortened(r.URL.Path), allow)})
	default:
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("no method is served at %s %s", shortened(r.Method), shortened(r.URL.Path))})
	}
}

// handlePathError answers a path with a broken escape.
func (m *Mux) handlePathError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	if _, ok := w.(*probe); !ok {
		problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: shortened(err.Error())})
	}
}

// recoverPanic answers a request whose handling has panicked, without a word of the reason.
func (m *Mux) recoverPanic(w http.ResponseWriter, r *http.Request) {
	reason := recover()
	switch reason {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(reason)
	}
	m.config.Logger.ErrorContext(r.Context(), "a request panicked", "path", r.URL.Path, "panic", reason, "stack", string(debug.Stack()))
	problem.Write(w, problem.Problem{Status: http.StatusInternalServerError, Code: "INTERNAL", Detail: textOf(codes.Internal)})
}

// headWriter drops the body of an answer to HEAD.
type headWriter struct{ http.ResponseWriter }

func (headWriter) Write(b []byte) (int, error) { return len(b), nil }

// Unwrap is for http.ResponseController.
func (w headWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// resolver finds messages and extensions in the contract, else in what is compiled in, such
// as google.rpc's details.
type resolver struct{ types *dynamicpb.Types }

func (r resolver) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if t, err := r.types.FindMessageByName(name); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return r.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

func (r resolver) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	if t, err := r.types.FindExtensionByName(name); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindExtensionByName(name)
}

func (r resolver) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	if t, err := r.types.FindExtensionByNumber(message, number); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindExtensionByNumber(message, number)
}
