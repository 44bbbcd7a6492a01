package callstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// seen is all that a caller can see of a call.
type seen struct {
	text, err       string
	code            codes.Code
	details         string
	header, trailer string
	from            string
	finished        string
}

// see makes one call.
func see(ctx context.Context, conn *grpc.ClientConn, method, text string) seen {
	var header, trailer metadata.MD
	var from peer.Peer
	var s seen
	got, err := invoke(ctx, conn, method, text, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from),
		grpc.OnFinish(func(err error) { s.finished += fmt.Sprint("finished with ", status.Code(err)) }))
	s.text, s.code, s.header, s.trailer = got, status.Code(err), sorted(header), sorted(trailer)
	if err != nil {
		s.err, s.details = err.Error(), fmt.Sprint(status.Convert(err).Details()...)
	}
	if from.Addr != nil {
		s.from = from.Addr.String()
	}
	return s
}

func sorted(md metadata.MD) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(md)) {
		all = append(all, fmt.Sprintf("%s=%q", key, md[key]))
	}
	return strings.Join(all, " ")
}

// answer is what the handler of these tests does, by the text of the request.
func answer(ctx context.Context, text string) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	switch what, _, _ := strings.Cut(text, " "); what {
	case "details":
		s, err := status.New(codes.FailedPrecondition, "the shop is shut: 100 %").WithDetails(&errdetails.ErrorInfo{Reason: "SHUT", Domain: "test"})
		if err != nil {
			return "", err
		}
		return "", s.Err()
	case "plain":
		return "", errors.New("an error without a status")
	case "bytes":
		return "", status.Error(codes.NotFound, "no \xff sweet")
	case "late":
		return "", context.DeadlineExceeded
	case "headers":
		_ = grpc.SetHeader(ctx, metadata.Pairs("one", "1", "one", "2", "b-bin", "\x00\xff"))
		_ = grpc.SendHeader(ctx, metadata.Pairs("two", "3"))
		again := grpc.SetHeader(ctx, metadata.Pairs("three", "4"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("four", "5", "t-bin", "\x01"))
		return fmt.Sprint(status.Code(again)), nil
	case "trailer":
		_ = grpc.SetTrailer(ctx, metadata.Pairs("why", "since"))
		return "", status.Error(codes.NotFound, "no such sweet")
	case "header-and-error":
		_ = grpc.SetHeader(ctx, metadata.Pairs("one", "1"))
		return "", status.Error(codes.NotFound, "no such sweet")
	case "metadata":
		delete(md, ":authority")
		return sorted(md), nil
	case "method":
		name, _ := grpc.Method(ctx)
		return name, nil
	case "deadline":
		deadline, ok := ctx.Deadline()
		return fmt.Sprint(ok, time.Until(deadline) > 50*time.Second, time.Until(deadline) <= time.Minute), nil
	case "peer":
		from, ok := peer.FromContext(ctx)
		if !ok {
			return "none", nil
		}
		host, _, err := net.SplitHostPort(from.Addr.String())
		return host, err
	case "wait":
		<-ctx.Done()
		return "", status.FromContextError(ctx.Err()).Err()
	case "large":
		return strings.Repeat("x", 5<<20), nil
	}
	return text, nil
}

// A call over a stream is seen as one on a stream of its own, by caller and handler.
func TestACallIsAsItWas(t *testing.T) {
	over := make(chan bool, 1)
	e := serveTest(t, func(ctx context.Context, text string) (string, error) {
		if text != "warm" {
			over <- overStream(ctx)
		}
		return answer(ctx, text)
	})
	client := &Client{}
	plain, streams := dialTest(t, nil, []string{e.address}), dialTest(t, client, []string{e.address})
	takesStreams(t, client, streams, 1)
	with := func(pairs ...string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), pairs...) }
	minute, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, test := range map[string]struct {
		ctx    context.Context
		text   string
		method string
		alone  bool // the call has a stream of its own
	}{
		"an answer":                     {text: "hello"},
		"an empty answer":               {text: ""},
		"details":                       {text: "details"},
		"an error without a status":     {text: "plain"},
		"an error of a context":         {text: "late"},
		"an error that is not UTF-8":    {text: "bytes"},
		"header and trailer":            {text: "headers"},
		"a trailer with an error":       {text: "trailer"},
		"a header with an error":        {text: "header-and-error"},
		"the method":                    {text: "method"},
		"the peer":                      {text: "peer"},
		"no deadline":                   {text: "deadline"},
		"a deadline":                    {ctx: minute, text: "deadline"},
		"metadata":                      {ctx: with("a", "1", "a", "2", "b-bin", "\x00\x01", "c", ""), text: "metadata"},
		"metadata that gRPC keeps":      {ctx: with("user-agent", "x", "content-type", "y", "te", "z"), text: "metadata"},
		"more metadata than shares":     {ctx: with("a", strings.Repeat("x", maxMetadata)), text: "method", alone: true},
		"metadata that is not ASCII":    {ctx: with("a", "é"), text: "method", alone: true},
		"a large request":               {text: "method " + strings.Repeat("x", maxMessage), alone: true},
		"a service without streams":     {text: "method", method: "/test.Other/Do", alone: true},
		"a method that is not there":    {text: "method", method: "/test.Service/Not", alone: true},
		"a service that is not there":   {text: "method", method: "/test.Not/Do", alone: true},
		"a request that is not allowed": {text: string([]byte{0xff}), alone: true},
	} {
		t.Run(name, func(t *testing.T) {
			if test.ctx == nil {
				test.ctx = t.Context()
			}
			if test.method == "" {
				test.method = does
			}
			want := see(test.ctx, plain, test.method, test.text)
			handled := len(over) > 0
			if handled {
				<-over
			}
			got := see(test.ctx, streams, test.method, test.text)
			if got != want {
				t.Errorf("over a stream:\n%+v\non its own:\n%+v", got, want)
			}
			if handled && <-over == test.alone {
				t.Errorf("over a stream: %v", !test.alone)
			}
		})
	}
}

// Each option for the trailer has a map of its own, as of gRPC: who asks may change what it got.
func TestEachHasItsOwnTrailer(t *testing.T) {
	e := serveTest(t, answer)
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	var one, other metadata.MD
	if _, err := invoke(t.Context(), conn, does, "trailer", grpc.Trailer(&one), grpc.Trailer(&other)); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	if delete(one, "why"); len(other["why"]) != 1 {
		t.Errorf("the other trailer is %v", other)
	}
}

// A response beyond the bound of the channel fails as ever. Its stream is lost, and no other call.
func TestALargeResponse(t *testing.T) {
	e := serveTest(t, answer)
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	for range 3 {
		if _, err := invoke(t.Context(), conn, does, "large"); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a response of 5 MiB: %v, want RESOURCE_EXHAUSTED", err)
		}
		if got, err := invoke(t.Context(), conn, does, "small"); got != "small" {
			t.Errorf("the call after it: %q, %v", got, err)
		}
	}
}

// An option that only gRPC can obey gives the call a stream of its own.
func TestOptionsThatNeedAStreamOfTheirOwn(t *testing.T) {
	e := serveTest(t, func(ctx context.Context, _ string) (string, error) { return fmt.Sprint(overStream(ctx)), nil })
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	for name, test := range map[string]struct {
		option grpc.CallOption
		over   string
	}{
		"none":             {grpc.EmptyCallOption{}, "true"},
		"wait for ready":   {grpc.WaitForReady(true), "true"},
		"a bound":          {grpc.MaxCallRecvMsgSize(1 << 20), "false"},
		"a subtype":        {grpc.CallContentSubtype("proto"), "false"},
		"its credentials":  {grpc.PerRPCCredentials(nothing{}), "false"},
		"a bound to retry": {grpc.MaxRetryRPCBufferSize(1), "false"},
	} {
		if got, err := invoke(t.Context(), conn, does, "", test.option); err != nil || got != test.over {
			t.Errorf("%s: over a stream: %v, %v, want %v", name, got, err, test.over)
		}
	}
}

type nothing struct{}

func (nothing) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return nil, nil
}
func (nothing) RequireTransportSecurity() bool { return false }
