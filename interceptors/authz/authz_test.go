package authz_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/internal/racetest"
)

// call calls a method and reports whether its handler ran.
func call(t testing.TB, a *authz.Authorizer, ctx context.Context, fullMethod string) (ran bool, err error) {
	t.Helper()
	info := &grpc.UnaryServerInfo{FullMethod: fullMethod}
	handler := func(context.Context, any) (any, error) { ran = true; return nil, nil }
	if part := a.UnaryServer(metaOf(fullMethod)); part != nil {
		_, err = part(ctx, nil, info, handler)
		return ran, err
	}
	_, err = handler(ctx, nil)
	return ran, err
}

// Case I10: A denial sends nothing but PERMISSION_DENIED; the log has source, rule
// and method.
func TestADenialShowsItsReasonInTheLogAlone(t *testing.T) {
	log, seen := &journal{}, []authz.Event{}
	set := allow("web")
	set.Intentions = append(set.Intentions, intention.Intention{Source: "secret-team", Destination: "catalog", Permissions: []intention.Permission{
		{Action: intention.Deny, PathPrefix: "/sweetshop."}}})
	a := newAuthorizer(t, authz.WithIntentions(set), log.logger(), authz.WithObserver(interceptors.ObserverFunc(
		func(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
			if meta.FullMethod != getSweet || e.Stage() != interceptors.Authorization {
				t.Errorf("event %+v of %s", e, meta.FullMethod)
			}
			seen = append(seen, *e.(*authz.Event))
		})))
	ran, err := call(t, a, calledBy(t, id("secret-team")), getSweet)
	s := status.Convert(err)
	if ran || s.Code() != codes.PermissionDenied || s.Message() != "permission denied" || len(s.Details()) > 0 {
		t.Errorf("the caller receives %v, handler ran: %t", err, ran)
	}
	for _, want := range []string{"service=catalog", "method=" + getSweet, "caller=" + id("secret-team"), `rule="secret-team => catalog permission 1"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
	if ran, err := call(t, a, calledBy(t, id("web")), getSweet); !ran || err != nil {
		t.Error(ran, err)
	}
	want := []authz.Event{
		{getSweet, id("secret-team"), authz.PolicyName, "secret-team => catalog permission 1", false},
		{getSweet, id("web"), authz.PolicyName, "web => catalog", true},
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) || seen[0].Result() != "denied" || seen[1].Result() != "allowed" {
		t.Errorf("events are %+v, want %+v", seen, want)
	}
}

// Case X13
//
// Case I12
func TestWhoHasNoIdentityIsDenied(t *testing.T) {
	log := &journal{}
	a := newAuthorizer(t, log.logger(), authz.WithIntentions(intention.Set{TrustDomain: domain, Default: intention.Allow,
		Intentions: []intention.Intention{{Source: "*", Destination: "*", Action: intention.Allow}}}))
	claims := metadata.MD{"x-meshlite-subject": {id("web")}, "x-forwarded-client-cert": {"URI=" + id("web")}}
	for _, spiffe := range []string{
		"", "https://example.com/ns/default/dc/dc1/svc/web",
		"spiffe://other.consul/ns/default/dc/dc1/svc/web",
		"spiffe://" + domain + "/ns/other/dc/dc1/svc/web", "spiffe://" + domain + "/ap/p/ns/default/dc/dc1/svc/web",
		"spiffe://" + domain + "/ns/default/dc/dc1/svc/web/more", "spiffe://" + domain + "/ns/default/dc/dc1/svc/", "spiffe://" + domain + "/ns/default/dc//svc/web",
		"spiffe://" + domain + "/ns/default/dc/dc1/svc/w%65b", "spiffe://" + domain + "/ns/default/dc/dc1/svc/*", "spiffe://" + domain + "/NS/default/dc/dc1/svc/web",
		"spiffe://" + domain + "/agent/client/dc/dc1/id/web", "spiffe://" + domain + "/gateway/mesh/dc/dc1", "spiffe:///ns/default/dc/dc1/svc/web",
	} {
		ctx := metadata.NewIncomingContext(calledBy(t, spiffe), claims)
		if ran, err := call(t, a, ctx, getSweet); ran || status.Code(err) != codes.PermissionDenied {
			t.Errorf("%q: handler ran: %t, %v", spiffe, ran, err)
		}
	}
	if ran, err := call(t, a, calledBy(t, id("web")), getSweet); !ran || err != nil {
		t.Error("a service is denied:", err)
	}
	if ran, _ := call(t, a, t.Context(), getSweet); ran {
		t.Error("a call without a peer is allowed")
	}
	if s := a.Stats(); s.Allowed != 1 || s.Denied != (authz.Denials{Identity: 15}) {
		t.Errorf("stats are %+v", s)
	}
	for _, want := range []string{"no verified certificate", "names no service", "of another trust domain"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
}

// Consul's agent has no identity when it checks the health.
func TestHealthAnswersEverybodyAndReflectionDoesNot(t *testing.T) {
	a := newAuthorizer(t, (&journal{}).logger(), authz.WithIntentions(allow()))
	if ran, err := call(t, a, t.Context(), "/grpc.health.v1.Health/Check"); !ran || err != nil {
		t.Error("the health check is denied:", err)
	}
	if a.StreamServer(metaOf("/grpc.health.v1.Health/Watch")) != nil {
		t.Error("watching the health is authorized")
	}
	if ran, _ := call(t, a, t.Context(), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"); ran {
		t.Error("a stranger reads the contracts")
	}
}

// Permissions see the metadata of the call and the full method, also of methods that the
// server does not have.
func TestPermissionsSeeTheCall(t *testing.T) {
	a := newAuthorizer(t, (&journal{}).logger(), authz.WithIntentions(intention.Set{Intentions: []intention.Intention{{Source: "web", Destination: "catalog", Permissions: []intention.Permission{
		{Action: intention.Allow, PathExact: getSweet, Headers: []intention.Header{{Name: "Tenant", Regex: "a|b,c"}}},
		{Action: intention.Allow, PathPrefix: "/made.up.", Headers: []intention.Header{{Name: "host", Suffix: ".local"}}},
	}}}}))
	for _, test := range []struct {
		method string
		md     metadata.MD
		want   bool
	}{
		{getSweet, metadata.Pairs("tenant", "a"), true}, {getSweet, metadata.Pairs("tenant", "b", "tenant", "c"), true},
		{getSweet, metadata.Pairs("tenant", "aa"), false}, {getSweet, nil, false}, {getSweet + "s", metadata.Pairs("tenant", "a"), false},
		{"/made.up.Service/X", metadata.Pairs(":authority", "catalog.local"), true}, {"/made.up.Service/X", metadata.Pairs(":authority", "catalog"), false},
	} {
		ctx := metadata.NewIncomingContext(calledBy(t, id("web")), test.md)
		if ran, _ := call(t, a, ctx, test.method); ran != test.want {
			t.Errorf("%s %v: handler ran: %t, want %t", test.method, test.md, ran, test.want)
		}
		// In a chain, methods that no service has share one description.
		ran := false
		_, _ = a.UnaryServer(metaOf("other"))(ctx, nil, &grpc.UnaryServerInfo{FullMethod: test.method}, func(context.Context, any) (any, error) { ran = true; return nil, nil })
		if ran != test.want {
			t.Errorf("%s %v as an unknown method: handler ran: %t, want %t", test.method, test.md, ran, test.want)
		}
	}
}

// Case I8: Intentions never read: deny. Read once, Consul away: as last read.
func TestWithoutAnAnswerTheLastOneDecides(t *testing.T) {
	log, watcher := &journal{}, newReports()
	a := newAuthorizer(t, authz.WithWatcher(watcher), log.logger())
	<-watcher.watching
	web := calledBy(t, id("web"))
	want := func(want bool, line string) {
		t.Helper()
		if ran, _ := call(t, a, web, getSweet); ran != want {
			t.Errorf("handler ran: %t, want %t", ran, want)
		}
		if !strings.Contains(log.String(), line) {
			t.Errorf("%q is not in the log:\n%s", line, log)
		}
	}
	want(false, "intentions were never read")
	watcher.report(intention.Set{}, errors.New("connection refused"))
	watcher.report(intention.Set{}, errors.New("connection refused"))
	want(false, "intentions cannot be read: all calls are denied")
	watcher.report(allow("web"), nil)
	want(true, "they decide from now on")
	watcher.report(intention.Set{}, errors.New("connection refused"))
	want(true, "intentions cannot be read: the last ones decide")
	if s := a.Stats(); !s.Failing || s.ReadAt.IsZero() || s.Intentions != 1 || s.Denied.NeverRead != 2 {
		t.Errorf("stats are %+v", s)
	}
	watcher.report(allow("api"), nil)
	want(false, "intentions are read again")
	if n := strings.Count(log.String(), "connection refused"); n != 2 {
		t.Errorf("%d lines of two outages:\n%s", n, log)
	}
	a.Close()
	want(false, "")
}

// A watched intention that is not understood is logged once, not at each answer.
func TestWhatIsNotUnderstoodIsLoggedOnce(t *testing.T) {
	log, watcher := &journal{}, newReports()
	a := newAuthorizer(t, authz.WithWatcher(watcher), log.logger())
	<-watcher.watching
	set := allow("web")
	set.Intentions[0].Refused = "JWT: tokens are not verified here"
	for range 3 {
		watcher.report(set, nil)
	}
	if ran, _ := call(t, a, calledBy(t, id("web")), getSweet); ran {
		t.Error("the call is allowed")
	}
	if n := strings.Count(log.String(), "an intention is not understood"); n != 1 || len(a.Stats().Refused) != 1 {
		t.Errorf("%d lines, stats %+v:\n%s", n, a.Stats(), log)
	}
}

// watcherFunc is a watcher made of a function.
type watcherFunc func(context.Context, func(intention.Set, error))

func (f watcherFunc) WatchIntentions(ctx context.Context, _ string, report func(intention.Set, error)) {
	f(ctx, report)
}

// A watcher that ends by itself is an outage: the last intentions decide, loudly.
func TestAWatcherThatEndsIsAnOutage(t *testing.T) {
	for name, end := range map[string]func(){"returns": func() {}, "panics": func() { panic("no pencil") }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &journal{}
				a := newAuthorizer(t, log.logger(), authz.WithWatcher(watcherFunc(func(_ context.Context, report func(intention.Set, error)) {
					report(allow("web"), nil)
					end()
				})))
				synctest.Wait()
				if ran, err := call(t, a, calledBy(t, id("web")), getSweet); !ran {
					t.Error(err)
				}
				if !a.Stats().Failing || !strings.Contains(log.String(), "intentions cannot be read: the last ones decide") {
					t.Errorf("stats are %+v:\n%s", a.Stats(), log)
				}
			})
		})
	}
}

// Case X14 (authorization): Close ends in time though the watcher hangs.
func TestAWatcherThatHangsDoesNotHoldClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, release := &journal{}, make(chan struct{})
		a := newAuthorizer(t, log.logger(), authz.WithWatcher(watcherFunc(func(context.Context, func(intention.Set, error)) { <-release })))
		a.Close()
		if !strings.Contains(log.String(), "it is left running") {
			t.Errorf("the log is %s", log)
		}
		close(release)
	})
}

// A flood of denials does not fill the log.
func TestDenialsAreLoggedWithABound(t *testing.T) {
	log := &journal{}
	a := newAuthorizer(t, authz.WithIntentions(allow()), log.logger())
	long := calledBy(t, id(strings.Repeat("x", 1000)))
	for range 1000 {
		_, _ = call(t, a, long, "/a.B/"+strings.Repeat("y", 10_000))
	}
	if n := len(log.String()); n > 100<<10 {
		t.Errorf("%d bytes of log", n)
	}
}

func TestTrustDomainsOfOtherAuthorities(t *testing.T) {
	a := newAuthorizer(t, (&journal{}).logger(), authz.WithIntentions(allow("web")), authz.WithTrustDomain("spire.example"))
	for spiffe, want := range map[string]bool{id("web"): false, "spiffe://spire.example/ns/default/dc/dc1/svc/web": true} {
		if ran, _ := call(t, a, calledBy(t, spiffe), getSweet); ran != want {
			t.Errorf("%s: handler ran: %t, want %t", spiffe, ran, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, opts := range map[string][]authz.Option{
		"want one of": nil,
		"WithWatcher, WithIntentions and WithPolicy": {authz.WithIntentions(allow()), authz.WithWatcher(newReports())},
		`Action: "ALLOW": want allow or deny`:        {authz.WithIntentions(intention.Set{Intentions: []intention.Intention{{Source: "web", Destination: "catalog", Action: "ALLOW"}}})},
		`web => catalog: Permissions[0].PathRe`:      {authz.WithIntentions(intention.Set{Intentions: []intention.Intention{{Source: "web", Destination: "catalog", Permissions: []intention.Permission{{Action: "deny", PathRegex: "("}}}}})},
	} {
		if _, err := authz.New("catalog", opts...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	if _, err := authz.New("*", authz.WithIntentions(allow())); err == nil {
		t.Error("every service is a destination")
	}
}

func Example() {
	a, err := authz.New("catalog", authz.WithIntentions(intention.Set{Intentions: []intention.Intention{
		{Source: "web", Destination: "catalog", Action: intention.Allow},
	}}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(a.UnaryServerInterceptor(policies)), grpc.StreamInterceptor(a.StreamServerInterceptor(policies)))
	server.Stop()
	fmt.Println(a.Stats().Intentions)
	// Output: 1
}

// A decision costs 200 ns and no allocation.
func TestADecisionAllocatesNothing(t *testing.T) {
	a := newAuthorizer(t, (&journal{}).logger(), authz.WithIntentions(manyIntentions()), authz.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) {})))
	part, info := a.UnaryServer(metaOf(getSweet)), &grpc.UnaryServerInfo{FullMethod: getSweet}
	for _, source := range []string{"web", "s-500", "stranger"} {
		ctx := calledBy(t, id(source))
		got := testing.AllocsPerRun(1000, func() { _, _ = part(ctx, nil, info, nothing) })
		if got != 0 && !racetest.Enabled {
			t.Errorf("%s: %v allocations, want none", source, got)
		}
	}
}

func nothing(context.Context, any) (any, error) { return nil, nil }

// manyIntentions allow web by a permission, 1,000 services, and everybody by default.
func manyIntentions() intention.Set {
	set := intention.Set{TrustDomain: domain, Default: intention.Allow, Intentions: []intention.Intention{
		{Source: "web", Destination: "catalog", Permissions: []intention.Permission{{Action: intention.Deny, PathRegex: "/a.*"}, {Action: intention.Allow, PathPrefix: "/sweetshop."}}},
	}}
	for n := range 1000 {
		set.Intentions = append(set.Intentions, intention.Intention{Source: fmt.Sprintf("s-%d", n), Destination: "catalog", Action: intention.Allow})
	}
	return set
}

func BenchmarkDecide(b *testing.B) {
	a := newAuthorizer(b, authz.WithIntentions(manyIntentions()))
	part, info := a.UnaryServer(metaOf(getSweet)), &grpc.UnaryServerInfo{FullMethod: getSweet}
	for _, source := range []string{"web", "s-500", "stranger"} {
		ctx := calledBy(b, id(source))
		b.Run(source, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = part(ctx, nil, info, nothing)
			}
		})
	}
}
