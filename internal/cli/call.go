package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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
	Method   string   // "package.Service/Method" or with a dot
	Data     string   // the request as JSON, "@file", or "-" for the input
	Metadata []string // "key:value"
	Timeout  time.Duration
	// LimitStream keeps the timeout on a stream, which may last as long as it
	// wants when nobody asked for a timeout.
	LimitStream bool
	Repeat      int // how often to call; more than once prints a table
	Security    Security
	Format      Format
}

// maxRepeat is a day of calls, not a load test.
const maxRepeat = 1_000_000

func (o *CallOptions) check() error {
	if err := checkTarget(o.Target); err != nil {
		return err
	}
	if _, _, err := reflectcall.SplitName(o.Method); err != nil {
		return &Error{ExitUsage, err}
	}
	if o.Timeout <= 0 {
		return Usagef("--timeout %v: write a duration above 0, such as 5s", o.Timeout)
	}
	if o.Repeat < 1 || o.Repeat > maxRepeat {
		return Usagef("-n %d: write 1 to %d", o.Repeat, maxRepeat)
	}
	return nil
}

// Call calls a method by reflection, through meshlite's resolver and pickers.
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
	conn, closeAll, err := dial(o)
	if err != nil {
		return err
	}
	defer closeAll()
	c := &caller{CallOptions: o, streams: streams, conn: conn}
	ctx = metadata.NewOutgoingContext(ctx, md)
	if err := c.find(ctx, text); err != nil {
		return err
	}
	return c.call(ctx)
}

// caller is a call that has been prepared.
type caller struct {
	CallOptions
	streams Streams
	conn    *grpc.ClientConn
	method  *reflectcall.Method
	request proto.Message
}

// onTheWire turns off what contracts ask of clients: the tool shows what a server
// answers to one attempt, not what a client makes of it. So it does not hold back either.
var onTheWire = &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
	Cache:   &policyv1.CacheRule{Ttl: proto.String("0s")},
	Retry:   &policyv1.RetryRule{MaxAttempts: proto.Uint32(1)},
	Timeout: proto.String("0s"),
}}

func dial(o CallOptions) (conn *grpc.ClientConn, closeAll func(), err error) {
	security, err := o.Security.option()
	if err != nil {
		return nil, nil, err
	}
	// What goes wrong comes back with the call, in one line.
	silent := slog.New(slog.DiscardHandler)
	directory, err := consul.New(consul.Config{Logger: silent})
	if err != nil {
		return nil, nil, err
	}
	limiter, err := ratelimit.New(ratelimit.WithHoldBack(0))
	if err == nil {
		conn, err = meshlite.NewClient(o.Target, security, meshlite.WithConsul(directory), meshlite.WithLogger(silent),
			meshlite.WithPolicy(onTheWire), meshlite.WithRateLimit(limiter))
	}
	if err != nil {
		directory.Close()
		return nil, nil, err
	}
	return conn, func() { conn.Close(); directory.Close() }, nil
}

// resolverFirst lets the resolver, which gives up on Consul after as long as a
// call may take by default, say so before the question to the server ends.
const resolverFirst = 250 * time.Millisecond

// find asks for the contract and reads the request by it.
func (c *caller) find(ctx context.Context, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+resolverFirst)
	defer cancel()
	var err error
	c.method, err = reflectcall.Lookup(ctx, c.conn, c.Method)
	if failure, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("%s: asking for the contract: %s", c.Target, c.explain(failure))
	}
	if errors.Is(err, reflectcall.ErrNoReflection) {
		return fmt.Errorf("%s: %w", c.Target, err)
	}
	if err != nil {
		return err
	}
	if c.request, err = c.method.Request(text); err != nil {
		return Usagef("-d: %w", err)
	}
	return nil
}

func (c *caller) call(ctx context.Context) error {
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

// explain is a failure in words, with what to change where gRPC does not say it.
func (c *caller) explain(failure *status.Status) string {
	text := fmt.Sprintf("%v: %s", failure.Code(), failure.Message())
	if fix := c.fix(failure.Code(), failure.Message()); fix != "" {
		text += ": " + fix
	}
	return text
}

// fix goes by what gRPC and crypto/tls say, which have no codes for it.
func (c *caller) fix(code codes.Code, message string) string {
	has := func(part string) bool { return strings.Contains(message, part) }
	switch {
	case !c.Security.Plaintext && has("first record does not look like a TLS handshake"):
		return "the server speaks plaintext: add --plaintext"
	case !c.Security.Plaintext && has("signed by unknown authority"):
		return "name the file of its authority by --cacert"
	case !c.Security.Plaintext && has("x509: certificate is"):
		return "name what the certificate proves by --servername"
	case c.Security.Plaintext && has("error reading server preface"):
		return "if the server speaks TLS, leave --plaintext out"
	case code == codes.DeadlineExceeded:
		return fmt.Sprintf("is --timeout %v enough?", c.Timeout)
	case has("connect: connection refused"):
		return "is a server running there?"
	case has("the resolver has found no endpoint"):
		return "is the name of the host right?"
	default:
		return ""
	}
}
