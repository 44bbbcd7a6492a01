package attempt_test

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnAttemptKnowsThoseBefore(t *testing.T) {
	first := attempt.New()
	first.SetPicked(&attempt.Instance{Address: "a"})
	second := first.Next()
	if first.Latest() != second || second.Number() != 2 {
		t.Errorf("latest is attempt %d, want the second", first.Latest().Number())
	}
	second.SetPicked(&attempt.Instance{Address: "b"})
	third := second.Next()
	for address, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if third.Tried(address) != want {
			t.Errorf("the third attempt says of %s tried = %v, want %v", address, !want, want)
		}
	}
	if second.Tried("b") || first.Tried("a") {
		t.Error("an attempt counts itself among those before")
	}
	if third.Picked() != nil {
		t.Error("an attempt without a pick tells one")
	}
}

func TestContextWithoutARecord(t *testing.T) {
	if r := attempt.FromContext(context.Background()); r != nil {
		t.Errorf("record is %v, want none", r)
	}
}

func Example() {
	record := attempt.New()
	ctx := attempt.NewContext(context.Background(), record)

	// A picker does this.
	attempt.FromContext(ctx).SetPicked(&attempt.Instance{ID: "catalog-1", Address: "10.0.0.1:80"})

	fmt.Println(record.Latest().Picked().ID)
	// Output: catalog-1
}

// Case P5
func TestTheFirstResponseIsToldOnce(t *testing.T) {
	ctx, record := attempt.FromOrNew(context.Background(), attempt.Stream)
	if _, again := attempt.FromOrNew(ctx, attempt.Stream); again != record {
		t.Error("a context with a record got another one")
	}
	record.Respond() // nobody waits for it
	var responses []string
	record.OnResponse(func() { responses = append(responses, "first pick") })
	record.SetPicked(&attempt.Instance{Address: "b"}) // gRPC had to pick again
	record.Respond()
	record.OnResponse(func() { responses = append(responses, "second pick") })
	record.Respond()
	record.Respond()
	if len(responses) != 1 || responses[0] != "second pick" {
		t.Errorf("responses %q, want the second pick once", responses)
	}
	if record.Next().Kind() != attempt.Stream {
		t.Error("the next attempt of a stream is none")
	}
}

// A call made while another is under way, with its context, is a call of its own.
//
// Case P5
func TestACallWithinACallHasItsOwnRecord(t *testing.T) {
	ctx, outer := attempt.FromOrNew(context.Background(), attempt.Stream)
	outer.SetPicked(&attempt.Instance{Address: "a"})
	_, inner := attempt.FromOrNew(ctx, attempt.Unary)
	if inner == outer || outer.Kind() != attempt.Stream || inner.Kind() != attempt.Unary {
		t.Errorf("the inner call has the record %p of kind %v, the outer %p of kind %v", inner, inner.Kind(), outer, outer.Kind())
	}
}
