package transcode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
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

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/internal/prototypes"
)

// Service is a service of the mesh that is offered over HTTP.
type Service struct {
	Name     string // in the directory; for logs and metrics
	Conn     grpc.ClientConnInterface
	Contract *contract.Contract
	Offers   func(protoreflect.MethodDescriptor) bool        // which methods are let out; nil is none
	Cache    func(protoreflect.MethodDescriptor) CachePolicy // what the effective policy says, read for each answer; nil is none
	// KeepRenderings has the cache of Conn keep the JSON of its answers, too. It is for channels
	// whose interceptors outside of the cache do not change replies, and read no more of them than
	// their size.
	KeepRenderings bool
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
	// SetRoute is called with the path template of each request that has one, by which logs and
	// metrics may name it. Nil is not called.
	SetRoute func(ctx context.Context, template string)
	// Headers are the keys of response metadata that become headers of the answer.
	Headers []string
	// Origins are patterns of hosts, such as "*.example.com", whose pages may open WebSockets,
	// beside those of the request's own host.
	Origins []string

	MaxRequestBytes int           // of a body or a message of a stream; 4 MiB
	MaxDepth        int           // of JSON, and of the path of a query parameter; 100
	MaxValues       int           // of JSON: each takes some hundred bytes as part of a message; 100,000
	Timeout         time.Duration // of a call whose caller sets none; 30 s. A stream then has MaxTimeout
	MaxTimeout      time.Duration // of any call; 1 h
	WriteTimeout    time.Duration // for which a caller may take a message of a stream; 30 s
	ShowInternal    bool          // shows the texts of internal errors to callers
	Logger          *slog.Logger  // for internal errors; slog.Default()
}

// Mux serves one set of contracts over HTTP. It is immutable, and safe for concurrent use.
type Mux struct {
	config   Config
	shows    disclosure
	rules    rules
	methods  map[string]*method // by path
	bindings []Binding
}

// New makes a Mux. An error names the service and method, and what is wrong with it.
func New(config Config) (*Mux, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	m := &Mux{
		config:  config,
		shows:   disclosure{headers: map[string]string{}, internal: config.ShowInternal, logger: config.Logger},
		methods: map[string]*method{},
	}
	m.rules = rules{taken: map[string]string{}, serve: m.serve}
	for _, name := range config.Headers {
		key := strings.ToLower(name)
		if !token.MatchString(key) || isReserved(key) {
			return nil, fmt.Errorf("transcode: Config.Headers has %q, which is the gateway's own: leave it out", name)
		}
		m.shows.headers[key] = http.CanonicalHeaderKey(key)
	}
	var errs []error
	for i := range m.config.Services {
		errs = append(errs, m.addService(&m.config.Services[i]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := m.rules.build(m.handleRoutingError); err != nil {
		return nil, err
	}
	return m, nil
}

func (c *Config) setDefaults() error {
	for _, bound := range []struct {
		name string
		ok   bool
	}{
		{"MaxRequestBytes", c.MaxRequestBytes >= 0}, {"MaxDepth", c.MaxDepth >= 0}, {"MaxValues", c.MaxValues >= 0},
		{"Timeout", c.Timeout >= 0}, {"MaxTimeout", c.MaxTimeout >= 0}, {"WriteTimeout", c.WriteTimeout >= 0},
	} {
		if !bound.ok {
			return fmt.Errorf("transcode: Config.%s is negative: give a bound, or 0 for the default", bound.name)
		}
	}
	setDefault(&c.MaxRequestBytes, 4<<20)
	setDefault(&c.MaxDepth, 100)
	setDefault(&c.MaxValues, 100_000)
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
	if c.SetRoute == nil {
		c.SetRoute = func(context.Context, string) {}
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

func (m *Mux) addService(s *Service) error {
	if s.Conn == nil || s.Contract == nil {
		return fmt.Errorf("transcode: service %q has no connection or no contract: set Conn and Contract", s.Name)
	}
	if s.Offers == nil {
		return nil
	}
	types := prototypes.Types{Contract: s.Contract.Types}
	for _, desc := range s.Contract.Services {
		for i := range desc.Methods().Len() {
			if d := desc.Methods().Get(i); s.Offers(d) {
				if err := m.addMethod(s, d, types); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (m *Mux) addMethod(s *Service, desc protoreflect.MethodDescriptor, types prototypes.Types) error {
	bindings, err := Bindings(desc)
	if err != nil {
		return err
	}
	added := &method{
		mux: m, service: s, desc: desc, path: pathOf(desc),
		reading: protojson.UnmarshalOptions{Resolver: types, RecursionLimit: m.config.MaxDepth + 10},
		// gRPC has checked that required fields are set.
		writing: protojson.MarshalOptions{Resolver: types, AllowPartial: true},
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
		if err := m.rules.add(newRoute(added, b)); err != nil {
			return err
		}
	}
	return nil
}

// Bindings returns the ways to call the methods that are let out, by service and in the order
// of the contracts. The POST path of a method with a rule is not among them.
func (m *Mux) Bindings() []Binding { return slices.Clone(m.bindings) }

// Matches reports whether some method is called at the path of r, by any HTTP method.
func (m *Mux) Matches(r *http.Request) bool {
	return m.methods[r.URL.Path] != nil && r.URL.RawPath == "" || m.rules.matches(r.Method, r) || m.allow(r) != ""
}

// ServeHTTP serves a request by the binding that matches it.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer m.recoverPanic(w, r)
	if r.Method == http.MethodHead {
		w = headWriter{w}
	}
	if found := m.methods[r.URL.Path]; found != nil && r.URL.RawPath == "" {
		if found.desc.IsStreamingClient() && r.Method == http.MethodGet {
			m.config.SetRoute(r.Context(), found.path)
			(&socketCall{mux: m, w: w, r: r, method: found}).serve()
			return
		}
		if rt := found.routeOf(r.Method); rt != nil {
			m.serve(w, r, rt, nil)
			return
		}
	}
	switch {
	case r.Method == http.MethodOptions && !m.rules.matches(http.MethodOptions, r):
		m.answerOptions(w, r)
	case r.Method == http.MethodHead && !m.rules.matches(http.MethodHead, r):
		get := *r
		get.Method = http.MethodGet
		m.rules.ServeHTTP(w, &get)
	default:
		m.rules.ServeHTTP(w, r)
	}
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
	for _, httpMethod := range m.rules.httpMethods {
		if !slices.Contains(all, httpMethod) && m.rules.matches(httpMethod, r) {
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

// recoverPanic answers a request whose handling has panicked, without a word of the reason.
func (m *Mux) recoverPanic(w http.ResponseWriter, r *http.Request) {
	reason := recover()
	switch reason {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(reason)
	}
	m.logPanic(r, reason)
	if w.Header().Get("Content-Type") != "" { // the answer has begun
		panic(http.ErrAbortHandler)
	}
	problem.Write(w, problem.Problem{Status: http.StatusInternalServerError, Code: "INTERNAL", Detail: textOf(codes.Internal)})
}

func (m *Mux) logPanic(r *http.Request, reason any) {
	m.config.Logger.ErrorContext(r.Context(), "a request panicked", "path", r.URL.Path, "panic", reason, "stack", string(debug.Stack()))
}

// headWriter drops the body of an answer to HEAD.
type headWriter struct{ http.ResponseWriter }

func (headWriter) Write(b []byte) (int, error) { return len(b), nil }

// Unwrap is for http.ResponseController.
func (w headWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
