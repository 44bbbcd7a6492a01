package ratelimit_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const chat = "/other.v1.Other/Chat"

func chatPolicies(t *testing.T, rules ...*policyv1.RateLimitRule) *interceptors.Policies {
	t.Helper()
	p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"other.v1.Other/Chat": {RateLimits: rules}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// echo answers each message until it fails to receive one, and then fails with that.
func echo(_ any, stream grpc.ServerStream) error {
	for {
		m := &wrapperspb.StringValue{}
		if err := stream.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
}

// talk sends n messages and returns how many came back, and how the stream ended.
func talk(t *testing.T, conn *grpc.ClientConn, n int) (answers int, trailer metadata.MD, err error) {
	t.Helper()
	stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, chat)
	if err != nil {
		return 0, nil, err
	}
	for range n {
		if err := stream.SendMsg(wrapperspb.String("toffee")); err != nil && !errors.Is(err, io.EOF) {
			return answers, nil, err
		}
		if err := stream.RecvMsg(&wrapperspb.StringValue{}); err != nil {
			return answers, stream.Trailer(), err
		}
		answers++
	}
	_ = stream.CloseSend()
	if err = stream.RecvMsg(&wrapperspb.StringValue{}); errors.Is(err, io.EOF) {
		err = nil
	}
	return answers, stream.Trailer(), err
}

// L11 (messages): A stream is charged when it opens, and per message if the policy
// says so, on either side. The opening pays for the first message.
func TestMessagesAreCharged(t *testing.T) {
	rule := limit("messages", 5, nil)
	opening := proto.Clone(rule).(*policyv1.RateLimitRule)
	rule.PerMessage = proto.Bool(true)
	onClient := proto.Clone(rule).(*policyv1.RateLimitRule)
	onClient.Side = policyv1.Side_SIDE_CLIENT
	inStore := func(rule *policyv1.RateLimitRule) *policyv1.RateLimitRule {
		rule = proto.Clone(rule).(*policyv1.RateLimitRule)
		rule.Store = policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL
		return rule
	}
	for _, test := range []struct {
		name     string
		rule     *policyv1.RateLimitRule
		first    int // answers of 4 messages
		second   int // of 4 more, in another stream
		pushback int
	}{
		{"opening only", opening, 4, 4, 0},
		{"per message, on the server", rule, 4, 1, 1},
		{"per message, on the client", onClient, 4, 1, 0},
		{"per message, on the server, in a store", inStore(rule), 4, 1, 1},
		{"per message, on the client, in a store", inStore(onClient), 4, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, p := newLimiter(t, ratelimit.WithStore(newMemory())), chatPolicies(t, test.rule)
			conn := dial(t, []grpc.ServerOption{grpc.UnknownServiceHandler(echo), grpc.StreamInterceptor(l.StreamServerInterceptor(p))},
				[]grpc.DialOption{grpc.WithStreamInterceptor(newLimiter(t, ratelimit.WithHoldBack(0), ratelimit.WithStore(newMemory())).StreamClientInterceptor(p))})
			n, _, err := talk(t, conn, 4)
			want(t, "first", n, test.first)
			want(t, "first ends", err, nil)
			n, trailer, err := talk(t, conn, 4)
			want(t, "second", n, test.second)
			want(t, "second refused", refused(err), test.second < 4)
			want(t, "pushbacks", len(trailer.Get("grpc-retry-pushback-ms")), test.pushback)
			want(t, "RateLimit", len(trailer.Get("ratelimit")), test.pushback)
		})
	}
}

// A handler that goes on after a refusal leads to no second pushback, which would
// mean never.
func TestRefusedMessagesGiveOnePushback(t *testing.T) {
	rule := limit("messages", 1, nil)
	rule.PerMessage = proto.Bool(true)
	l, p := newLimiter(t), chatPolicies(t, rule)
	failed := 0
	conn := dial(t, []grpc.ServerOption{grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) (err error) {
		for {
			switch next := stream.RecvMsg(&wrapperspb.StringValue{}); {
			case errors.Is(next, io.EOF):
				return err
			case next != nil:
				failed, err = failed+1, next
			}
		}
	}), grpc.StreamInterceptor(l.StreamServerInterceptor(p))}, nil)
	stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true}, chat)
	want(t, "error", err, nil)
	for range 4 {
		want(t, "send", stream.SendMsg(wrapperspb.String("toffee")), nil)
	}
	want(t, "close", stream.CloseSend(), nil)
	want(t, "refused", refused(stream.RecvMsg(&wrapperspb.StringValue{})), true)
	want(t, "messages refused", failed, 3)
	want(t, "pushbacks", len(stream.Trailer().Get("grpc-retry-pushback-ms")), 1)
}

// Where messages wait, the stream gets slower and loses none.
func TestMessagesWait(t *testing.T) {
	for _, side := range []policyv1.Side{policyv1.Side_SIDE_SERVER, policyv1.Side_SIDE_CLIENT} {
		synctest.Test(t, func(t *testing.T) {
			rule := limit("messages", 60, nil)
			rule.Burst, rule.PerMessage, rule.Wait, rule.Side = proto.Uint64(1), proto.Bool(true), proto.Bool(true), side
			l, p := newLimiter(t), chatPolicies(t, rule)
			conn := dial(t, []grpc.ServerOption{grpc.UnknownServiceHandler(echo), grpc.StreamInterceptor(l.StreamServerInterceptor(p))},
				[]grpc.DialOption{grpc.WithStreamInterceptor(l.StreamClientInterceptor(p))})
			start := time.Now()
			n, _, err := talk(t, conn, 10)
			want(t, "answers", n, 10)
			want(t, "ends", err, nil)
			want(t, "takes", time.Since(start), 9*time.Second)
		})
	}
}

// Streams that fail are given back on both sides, once.
func TestRefundOfStreams(t *testing.T) {
	for _, side := range []policyv1.Side{policyv1.Side_SIDE_SERVER, policyv1.Side_SIDE_CLIENT} {
		rule := limit("streams", 2, nil)
		rule.Refund, rule.Side = policyv1.Refund_REFUND_FAILED, side
		l, p := newLimiter(t), chatPolicies(t, rule)
		result := status.Error(codes.NotFound, "nobody here")
		conn := dial(t, []grpc.ServerOption{grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			if result != nil {
				return result
			}
			return echo(nil, stream)
		}), grpc.StreamInterceptor(l.StreamServerInterceptor(p))},
			[]grpc.DialOption{grpc.WithStreamInterceptor(l.StreamClientInterceptor(p))})
		for range 5 {
			_, _, err := talk(t, conn, 1)
			want(t, "failing stream", status.Code(err), codes.NotFound)
		}
		want(t, "refunds", l.Stats().Refunded, 5)
		result = nil
		for range 2 {
			_, _, err := talk(t, conn, 1)
			want(t, "stream", err, nil)
		}
		_, _, err := talk(t, conn, 1)
		want(t, "one too many", refused(err), true)
	}
}

// The handler of a stream reads the standing, and every answer has it with WithFields.
func TestStreamsShowTheStandings(t *testing.T) {
	l, p := newLimiter(t, ratelimit.WithFields()), chatPolicies(t, limit("streams", 2, nil))
	var read []ratelimit.Standing
	conn := dial(t, []grpc.ServerOption{grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		read, _ = ratelimit.FromContext(stream.Context())
		return nil
	}), grpc.StreamInterceptor(l.StreamServerInterceptor(p))}, nil)
	_, trailer, err := talk(t, conn, 0)
	want(t, "stream", err, nil)
	want(t, "remaining", read[0].Remaining, 1)
	want(t, "field", trailer.Get("ratelimit")[0], `"streams";r=1;t=30`)
}
