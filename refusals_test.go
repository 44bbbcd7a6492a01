package meshlite_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const decade = 10 * 365 * 24 * time.Hour

// comeAgain is the refusal of a server that is not ours.
func comeAgain(after time.Duration) error {
	s, _ := status.New(codes.ResourceExhausted, "not now").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	return s.Err()
}

// fresh is the contract of the catalog, with its retries and without its cache.
func fresh() meshlite.Option {
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: proto.String("0s")}}})
}

// callAll is how many of n calls succeed, and the last error.
func callAll(t *testing.T, client catalogv1.CatalogServiceClient, n int) (ok int, last error) {
	t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "x"})
		cancel()
		if err == nil {
			ok++
		} else {
			last = err
		}
	}
	return ok, last
}

// askUntil calls until i has been called, and answers how many calls failed.
func askUntil(t *testing.T, client catalogv1.CatalogServiceClient, i *instance) (failed int, last error) {
	t.Helper()
	for i.calls.Load() == 0 && t.Context().Err() == nil {
		if ok, err := callAll(t, client, 1); ok == 0 {
			failed, last = failed+1, err
		}
	}
	return failed, last
}

// L15: a refusal holds back the instance that refused; others are tried at once.
//
// Case L15: A refusal holds back the instance that refused, unless the limit is the service's;
// advice is capped and goes with its instance.
func TestOneInstancesRefusalIsItsOwn(t *testing.T) {
	for name, refuses := range map[string]func(*mesh) *instance{
		"a stranger, for ten years": func(m *mesh) *instance { return m.serve(&shop{name: "no", err: comeAgain(decade)}) },
		"its share is spent":        func(m *mesh) *instance { return m.serve(&shop{name: "no"}, oneAMinute()) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			client, _ := m.client("consul:///catalog", fresh())
			for _, name := range []string{"a", "b", "c"} {
				askUntil(t, client, m.serve(&shop{name: name}))
			}
			refusing := refuses(m)
			failed, err := askUntil(t, client, refusing)
			ok, last := callAll(t, client, 1000)
			if failed > 0 || ok != 1000 {
				t.Errorf("%d calls fail, and %d of 1000 succeed; the errors are %v, %v", failed, ok, err, last)
			}
			if n := refusing.calls.Load(); n > 10 {
				t.Errorf("the instance that refuses had %d calls, want those by which it is found out", n)
			}
			expect(t, m.runtime, 0, "meshlite_ratelimit_held_back_total")
		})
	}
}

// When all refuse, calls are held back by the shortest time given, up to the cap.
//
// Case L15
func TestAllInstancesRefuse(t *testing.T) {
	m := newMesh(t)
	var all []*instance
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, m.serve(&shop{name: name, err: comeAgain(decade)}))
	}
	all = append(all, m.serve(&shop{name: "d", err: comeAgain(20 * time.Second)}))
	reached := func() (n int64) {
		for _, i := range all {
			n += i.calls.Load()
		}
		return n
	}
	client, _ := m.client("consul:///catalog", fresh())
	for _, i := range all {
		askUntil(t, client, i)
	}
	before := reached()
	_, err := callAll(t, client, 100)
	if n := reached() - before; n != 0 {
		t.Errorf("%d calls reach who wants none", n)
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("calls fail with %v", err)
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			if wait := info.GetRetryDelay().AsDuration(); wait <= 0 || wait > 23*time.Second {
				t.Errorf("the next call is to come in %v, want the shortest time given", wait)
			}
			return
		}
	}
	t.Error("the error does not say when to come again")
}
