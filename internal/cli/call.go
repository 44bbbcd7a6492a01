package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/reflectcall"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// CallOptions are those of [Call].
type CallOptions struct {
	Target   string
	Method   string   // "package.Service/Method" or with a dot; a service, or nothing, lists what there is
	Data     string   // the request as JSON, "@file", or "-" for the input
	Metadata []string // "key:value"
	Timeout  time.Duration
	// LimitStream applies the timeout to streams. By default they have none.
	LimitStream bool
	Repeat      int // how often to call; more than once prints a table
	Callers     int // how many call at once, 0 and 1 is one after the other
	Explain     bool
	Contracts   reflectcall.FileOptions
	Security    Security
	Format      Format
}

const (
	maxRepeat  = 1_000_000 // a day of calls, not a load test
	maxCallers = 1000
)

func (o *CallOptions) check() error {
	if err := checkTarget(o.Target); err != nil {
		return err
	}
	if o.Method == "" {
		if o.single() != "" {
			return Usagef("%s without METHOD: name the method to call, or leave it out", o.single())
		}
	} else if _, _, err := reflectcall.SplitName(o.Method); err != nil {
		return &Error{ExitUsage, err}
	}
	if o.Timeout <= 0 {
		return Usagef("--timeout %v: write a duration above 0, such as 5s", o.Timeout)
	}
	if o.Repeat < 1 || o.Repeat > maxRepeat {
		return Usagef("-n %d: write 1 to %d", o.Repeat, maxRepeat)
	}
	if o.Explain && o.Repeat > 1 {
		return Usagef("--explain with -n %d: one call is explained: leave one of them out", o.Repeat)
	}
	if o.Callers < 0 || o.Callers > maxCallers {
		return Usagef("-c %d: write 1 to %d", o.Callers, maxCallers)
	}
	if o.Callers > 1 && o.Repeat == 1 {
		return Usagef("-c %d without -n: say how many calls they make in all, such as -n %d", o.Callers, 100*o.Callers)
	}
	return checkContracts(o.Contracts)
}

// single is the flag that makes sense with a method only, if one was given.
func (o *CallOptions) single() string {
	switch {
	case o.Repeat != 1:
		return fmt.Sprintf("-n %d", o.Repeat)
	case o.Callers > 1:
		return fmt.Sprintf("-c %d", o.Callers)
	case o.Data != noFields:
		return "-d"
	case o.Explain:
		return "--explain"
	default:
		return ""
	}
}

// Call calls a method by its contract, through meshlite's resolver and pickers, or
// lists services and methods.
func Call(ctx context.Context, o CallOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	md, err := parseMetadata(o.Metadata)
	if err != nil {
		return err
	}
	text, err := readRequest(ctx, o.Data, streams.In)
	if err != nil {
		return err
	}
	files, err := reflectcall.ReadFiles(ctx, o.Contracts)
	if err != nil {
		return &Error{ExitUsage, err}
	}
	limiter, err := ratelimit.New(ratelimit.WithHoldBack(0))
	if err != nil {
		return err
	}
	conn, closeAll, err := dial(ctx, o.Target, o.Security, meshlite.WithPolicy(onTheWire), meshlite.WithRateLimit(limiter))
	if err != nil {
		return err
	}
	defer closeAll()
	c := &preparedCall{CallOptions: o, streams: streams, conn: conn, finder: reflectcall.Finder{Conn: conn, Files: files}}
	ctx = metadata.NewOutgoingContext(ctx, md)
	if o.Method == "" {
		return c.listServices(ctx)
	}
	service, err := c.find(ctx)
	if err != nil {
		return err
	}
	if c.method == nil {
		return c.listMethods(service)
	}
	if c.request, err = c.method.Request(text); err != nil {
		return Usagef("-d: %w", err)
	}
	return c.call(ctx)
}

// preparedCall is a call that has been prepared.
type preparedCall struct {
	CallOptions
	streams Streams
	conn    *grpc.ClientConn
	finder  reflectcall.Finder
	method  *reflectcall.Method // nil when a service was named
	request proto.Message
}

// onTheWire turns off the client side of policies, holding back included: the tool shows
// the server's answer to one attempt.
var onTheWire = &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
	Cache:   &policyv1.CacheRule{Ttl: proto.String("0s")},
	Retry:   &policyv1.RetryRule{MaxAttempts: proto.Uint32(1)},
	Timeout: proto.String("0s"),
}}

// dial opens a channel of the tool's own, and waits for its certificate if it has one.
func dial(ctx context.Context, target string, security Security, options ...meshlite.ClientOption) (conn *grpc.ClientConn, closeAll func(), err error) {
	// What goes wrong comes back with the call, in one line.
	silent := slog.New(slog.DiscardHandler)
	directory, err := consul.New(consul.Config{Logger: silent})
	if err != nil {
		return nil, nil, err
	}
	creds, end, err := security.Credentials(directory, silent)
	if err != nil {
		directory.Close()
		return nil, nil, err
	}
	if err = awaitCertificate(ctx, creds); err == nil {
		conn, err = meshlite.NewClient(target, append(options,
			meshlite.WithTransportCredentials(creds), meshlite.WithDirectory(directory), meshlite.WithLogger(silent))...)
	}
	if err != nil {
		end()
		directory.Close()
		return nil, nil, err
	}
	return conn, func() { conn.Close(); end(); directory.Close() }, nil
}

// resolverFirst makes the timeout longer than the resolver's own, so that an error of
// Consul is reported instead of a timeout.
const resolverFirst = 250 * time.Millisecond

// find asks for the contract of the method, or of the service if one was named.
func (c *preparedCall) find(ctx context.Context) (service *reflectcall.Service, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+resolverFirst)
	defer cancel()
	service, c.method, err = c.finder.Find(ctx, c.Method)
	if err == nil && c.method == nil && c.single() != "" {
		err = service.Unfinished()
	}
	return service, c.unfound(err)
}

// unfound is why there is no contract, with what to do about it.
func (c *preparedCall) unfound(err error) error {
	failure, ok := status.FromError(err)
	switch {
	case err == nil:
		return nil
	case ok:
		return fmt.Errorf("%s: asking for the contract: %s", c.Target, c.explain(failure))
	case errors.Is(err, reflectcall.ErrNoReflection) && c.finder.Files == nil:
		return fmt.Errorf("%s: %w: name its contract by --proto or --descriptor-set, or let it call reflection.Register(server.GRPC()); grpc.health.v1.Health/Check needs neither", c.Target, err)
	case errors.Is(err, reflectcall.ErrNoReflection):
		return fmt.Errorf("%s: %w", c.Target, err)
	default:
		return err
	}
}

// listServices writes what the server offers, a name a line as grpcurl does.
func (c *preparedCall) listServices(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+resolverFirst)
	defer cancel()
	names, err := c.finder.Services(ctx)
	if err := c.unfound(err); err != nil {
		return err
	}
	if c.Format == JSON {
		return WriteJSON(c.streams.Out, map[string][]string{"services": append([]string{}, names...)})
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(c.streams.Out, oneLine(name)); err != nil {
			return err
		}
	}
	return nil
}

// methodEntry is a method as JSON.
type methodEntry struct {
	Method          string   `json:"method"` // package.Service/Method
	Request         string   `json:"request"`
	Fields          []string `json:"request_fields"`
	Response        string   `json:"response"`
	ClientStreaming bool     `json:"client_streaming"`
	ServerStreaming bool     `json:"server_streaming"`
}

// listMethods writes the methods of a service, as they are written to call them.
func (c *preparedCall) listMethods(service *reflectcall.Service) error {
	list := []methodEntry{}
	for _, m := range service.Methods() {
		d := m.Descriptor()
		list = append(list, methodEntry{
			Method: m.Name(), Request: string(d.Input().FullName()), Fields: append([]string{}, m.Fields()...),
			Response: string(d.Output().FullName()), ClientStreaming: d.IsStreamingClient(), ServerStreaming: d.IsStreamingServer(),
		})
	}
	if c.Format == JSON {
		return WriteJSON(c.streams.Out, struct {
			Service string        `json:"service"`
			Methods []methodEntry `json:"methods"`
		}{service.Name(), list})
	}
	g := &grid{fields: []field{{head: "METHOD"}, {head: "REQUEST", least: 10}, {head: "RESPONSE", drop: 1}}}
	for _, m := range list {
		fields := cmp.Or(strings.Join(m.Fields, ", "), "no fields")
		g.add(oneLine(m.Method), oneLine(streamed(m.ClientStreaming, fields)), oneLine(streamed(m.ServerStreaming, m.Response)))
	}
	t := newTables(c.streams.Out)
	if err := t.write(g); err != nil {
		return err
	}
	return t.close()
}

func streamed(stream bool, text string) string {
	if stream {
		return "stream of " + text
	}
	return text
}

func (c *preparedCall) call(ctx context.Context) error {
	d := c.method.Descriptor()
	switch {
	case d.IsStreamingClient():
		return Usagef("%s takes a stream of requests, and this command sends one: call it from a program", c.method.Name())
	case d.IsStreamingServer() && c.Repeat > 1:
		return Usagef("-n %d: %s answers with a stream: leave -n out", c.Repeat, c.method.Name())
	case d.IsStreamingServer():
		return c.stream(ctx)
	case c.Repeat > 1:
		return c.repeat(ctx)
	default:
		return c.once(ctx)
	}
}

// explain describes a failure, with a fix if gRPC's message has none.
func (c *preparedCall) explain(failure *status.Status) string {
	return fmt.Sprintf("%v: %s", failure.Code(), c.Security.withFix(failure, c.Timeout))
}

// words describes a failure: its code, message and details, and the fix.
func (c *preparedCall) words(s *status.Status) string {
	text := c.explain(s)
	for _, detail := range s.Proto().GetDetails() {
		if said := detailWords(detail, s.Message()); said != "" {
			text += "; " + said
		}
	}
	return text
}

func checkContracts(o reflectcall.FileOptions) error {
	if len(o.ImportPaths) > 0 && len(o.Protos) == 0 {
		return Usagef("--proto-path without --proto: name a .proto file, too")
	}
	return nil
}
