package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/explain"
	"github.com/meshlite-go/meshlite/internal/reflectcall"
	"github.com/meshlite-go/meshlite/resolver"
)

// ExplainOptions are those of [Explain].
type ExplainOptions struct {
	Target    string
	Method    string   // "package.Service/Method" or with a dot
	Data      string   // the request as JSON, "@file", or "-" for the input; empty is none
	Metadata  []string // "key:value"
	Client    string   // host:port, or https://host:port, of the admin page of a client; empty is a channel of the tool's own
	Timeout   time.Duration
	Contracts reflectcall.FileOptions
	Security  Security // of that channel, or of a page by https
	Format    Format
}

// Explain writes what would happen to a call, without making it.
func Explain(ctx context.Context, o ExplainOptions, streams Streams) error {
	values, err := o.values(ctx, streams)
	if err != nil {
		return err
	}
	var e *explain.Explanation
	if o.Client != "" {
		e, err = o.ask(ctx, values)
	} else {
		e, err = o.own(ctx, values)
	}
	if err != nil {
		return err
	}
	if e.Identity != nil && e.Identity.Service != "" {
		addIntentions(ctx, &o, e)
	}
	if e.Client = o.Client; o.Format == JSON {
		return WriteJSON(streams.Out, e)
	}
	return writeExplanation(streams.Out, e)
}

// values are those of the action, checked as its page checks them.
func (o *ExplainOptions) values(ctx context.Context, streams Streams) (url.Values, error) {
	if err := checkTarget(o.Target); err != nil {
		return nil, err
	}
	if scheme, _, _ := strings.Cut(o.Target, ":"); scheme != resolver.Scheme {
		return nil, Usagef("target %q: only calls to services in Consul are explained: write consul:///service", resolver.Redact(o.Target))
	}
	service, method, err := reflectcall.SplitName(o.Method)
	switch {
	case err != nil:
		return nil, &Error{ExitUsage, err}
	case method == "":
		return nil, Usagef("method %q: write package.Service/Method", o.Method)
	case len(o.Method) > explain.MaxMethod:
		return nil, Usagef("the method has %d bytes, and at most %d are read: write package.Service/Method", len(o.Method), explain.MaxMethod)
	case o.Timeout <= 0:
		return nil, Usagef("--timeout %v: write a duration above 0, such as 5s", o.Timeout)
	case o.Client != "" && (o.Security.Plaintext || len(o.Contracts.Protos)+len(o.Contracts.ImportPaths)+len(o.Contracts.DescriptorSets) > 0):
		return nil, Usagef("--client together with flags of the tool's own channel, such as --plaintext or --proto: leave one out")
	case o.Client != "":
		if err := o.page().check([]string{o.Client}); err != nil {
			return nil, err
		}
	}
	if err := checkContracts(o.Contracts); err != nil {
		return nil, err
	}
	values := url.Values{explain.Target: {o.Target}, explain.Method: {service + "/" + method}}
	if o.Data != "" {
		text, err := readRequest(ctx, o.Data, streams.In)
		if err != nil {
			return nil, err
		}
		if len(text) > explain.MaxData {
			return nil, Usagef("-d: the request has %d bytes, and at most %d are read to explain a call: leave it out", len(text), explain.MaxData)
		}
		values.Set(explain.Data, string(text))
	}
	md, err := parseMetadata(o.Metadata)
	if err != nil {
		return nil, err
	}
	for key, all := range md {
		for _, value := range all {
			values.Add(explain.Metadata, key+":"+value)
		}
	}
	return values, nil
}

// page is the access to that of a client.
func (o *ExplainOptions) page() PageAccess { return PageAccess{Security: o.Security} }

// ask has the client explain the call.
func (o *ExplainOptions) ask(ctx context.Context, values url.Values) (*explain.Explanation, error) {
	asking, end, err := o.page().asker(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	e := &explain.Explanation{}
	if err := asking.of(process{Address: o.Client, named: true}).act(ctx, o.Client, explain.Action, values, e); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Client, err)
	}
	return e, nil
}

// own has a channel of the tool's own explain the call, once it is connected.
func (o *ExplainOptions) own(ctx context.Context, values url.Values) (*explain.Explanation, error) {
	files, err := reflectcall.ReadFiles(ctx, o.Contracts)
	if err != nil {
		return nil, &Error{ExitUsage, err}
	}
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{})
	if err != nil {
		return nil, err
	}
	defer runtime.Cache().Close()
	contracts := &interceptors.Contracts{}
	conn, closeAll, err := dial(ctx, o.Target, o.Security, meshlite.WithRuntime(runtime), meshlite.WithContracts(contracts))
	if err != nil {
		return nil, err
	}
	defer closeAll()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout+resolverFirst)
	defer cancel()
	awaitConnections(ctx, conn)
	service, method, unread := reflectcall.Finder{Conn: conn, Files: files}.Find(ctx, values.Get(explain.Method))
	switch {
	case method != nil:
		unread = addContract(contracts, method)
	case unread == nil:
		return nil, &Error{ExitUsage, service.Unfinished()}
	}
	handler, err := runtime.Handler()
	if err != nil {
		return nil, err
	}
	e := &explain.Explanation{}
	if err := (asker{http: &http.Client{Transport: inProcess{handler}}}).act(context.WithoutCancel(ctx), "localhost", explain.Action, values, e); err != nil {
		return nil, err
	}
	if unread != nil {
		e.Notes = append(e.Notes, "the contract is not read: "+oneLine(o.Security.withFix(status.Convert(unread), o.Timeout)))
	}
	return e, nil
}

// settling is how long a channel that is ready waits for the rest of its connections.
const settling = 200 * time.Millisecond

// awaitConnections returns when conn is ready or cannot be, or when ctx ends.
func awaitConnections(ctx context.Context, conn *grpc.ClientConn) {
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready && state != connectivity.TransientFailure; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
	select {
	case <-time.After(settling):
	case <-ctx.Done():
	}
}

// addContract adds the file that has method.
func addContract(contracts *interceptors.Contracts, method *reflectcall.Method) error {
	files := new(protoregistry.Files)
	if err := files.RegisterFile(method.Descriptor().ParentFile()); err != nil {
		return err
	}
	return contracts.Set(files)
}

// addIntentions adds what the agent says of the intentions of the services that the call may go to.
func addIntentions(ctx context.Context, o *ExplainOptions, e *explain.Explanation) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	known := map[string]bool{}
	for _, server := range e.Identity.Servers {
		if known[server.Service] {
			continue
		}
		known[server.Service] = true
		decided, err := decide(ctx, IntentionsOptions{Source: e.Identity.Service, Destination: server.Service, Method: e.Method, Metadata: o.Metadata})
		if err != nil {
			e.Intentions = append(e.Intentions, explain.Intention{Destination: server.Service, Error: oneLine(err.Error())})
			continue
		}
		e.Intentions = append(e.Intentions, explain.Intention{Destination: server.Service, Allowed: decided.Allowed, Rule: decided.Rule, Reason: decided.Reason})
	}
}
