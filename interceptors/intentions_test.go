package interceptors_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/prototest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const (
	allow = policyv1.IntentionAction_INTENTION_ACTION_ALLOW
	deny  = policyv1.IntentionAction_INTENTION_ACTION_DENY
)

func intentions(sources ...*policyv1.SourceIntention) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Intentions: &policyv1.Intentions{Sources: sources}}
}

func from(name string, action policyv1.IntentionAction, permissions ...*policyv1.IntentionPermission) *policyv1.SourceIntention {
	return &policyv1.SourceIntention{Name: name, Action: action, Permissions: permissions}
}

func exactly(action policyv1.IntentionAction, path string) *policyv1.IntentionPermission {
	return &policyv1.IntentionPermission{Action: action, Path: &policyv1.IntentionPermission_PathExact{PathExact: path}}
}

func withHeader(h *policyv1.IntentionHeader) *policyv1.ServicePolicy {
	return intentions(from("web", 0, &policyv1.IntentionPermission{Action: allow, Headers: []*policyv1.IntentionHeader{h}}))
}

// decided says for each source whether it may call.
func decided(t testing.TB, policies *interceptors.Policies, fullMethod string, sources ...string) string {
	t.Helper()
	set := policies.Call(interceptors.Server, fullMethod).Intentions
	if set == nil {
		return "open"
	}
	return decide(t, *set, fullMethod, sources...)
}

func decide(t testing.TB, set intention.Set, fullMethod string, sources ...string) string {
	t.Helper()
	rules, err := intention.Compile("x", set)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, source := range sources {
		all = append(all, fmt.Sprint(rules.Method(fullMethod).From(source).Decide(nil).Allowed))
	}
	return strings.Join(all, " ")
}

// piesAndCakes has a service that only storefront and till may call, and one for everybody.
const piesAndCakes = `syntax = "proto3"; package pies.v1;
import "meshlite/policy/v1/policy.proto";
message M {}
service PieService {
  option (meshlite.policy.v1.service) = {intentions: {sources: [
    {name: "storefront", action: INTENTION_ACTION_ALLOW},
    {name: "till", permissions: {action: INTENTION_ACTION_ALLOW, path_exact: "/pies.v1.PieService/Get"}}
  ]}};
  rpc Get(M) returns (M);
  rpc Bake(M) returns (M);
}
service CakeService { rpc Get(M) returns (M); }`

func contractsOf(t testing.TB, text string) *interceptors.Contracts {
	t.Helper()
	contracts := &interceptors.Contracts{}
	if err := contracts.Set(prototest.Files(t, "pies/v1/pies.proto", text)); err != nil {
		t.Fatal(err)
	}
	return contracts
}

// The intentions of a contract are about its service alone. Go options and the operator are
// above, for every service, source by source.
func TestIntentionsAreMergedBySource(t *testing.T) {
	const get, bake, cake = "/pies.v1.PieService/Get", "/pies.v1.PieService/Bake", "/pies.v1.CakeService/Get"
	contracts := contractsOf(t, piesAndCakes)
	policies, err := interceptors.NewPolicies(nil, interceptors.WithContracts(contracts))
	if err != nil {
		t.Fatal(err)
	}
	check := func(method, want string) {
		t.Helper()
		if got := decided(t, policies, method, "storefront", "till", "ops"); got != want {
			t.Errorf("storefront, till and ops may call %s: %v, want %v", method, got, want)
		}
	}
	if !policies.HaveIntentions() || newPolicies(t, nil).HaveIntentions() {
		t.Error("whether there are intentions is not found")
	}
	check(get, "true true false")
	check(bake, "true false false")
	check(cake, "open")
	check("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "open")
	if policies.Call(interceptors.Client, get).Intentions != nil {
		t.Error("a client has intentions")
	}

	before := policies.Call(interceptors.Server, cake)
	set := func(operator *policyv1.ServicePolicy) {
		t.Helper()
		if err := policies.SetOperator(operator); err != nil {
			t.Fatal(err)
		}
	}
	set(intentions(from("storefront", deny), from("ops", allow)))
	select {
	case <-before.Changed():
	default:
		t.Error("a change is not announced")
	}
	if now := before.Latest(); now.Intentions == nil || now.FullMethod != cake {
		t.Errorf("the latest policy is %+v", now)
	}
	check(get, "false true true")
	check(bake, "false false true")
	check(cake, "false false true")
	check("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "false false true")
	check("other", "false false true")

	operator := intentions()
	operator.Intentions.Default = ptr(allow)
	set(operator)
	check(get, "true true true")
	check(bake, "true true true") // no permission of till matches
	operator.Intentions.Default = nil
	set(operator) // nothing is allowed, where nothing was written
	check(cake, "false false false")
	operator.Intentions.Disabled = ptr(true)
	set(operator)
	check(get, "open")
	if policies.HaveIntentions() {
		t.Error("there are intentions although all are disabled")
	}
	set(nil)
	check(get, "true true false")
	if err := contracts.Set(nil); err != nil {
		t.Fatal(err)
	}
	check(get, "open")
}

func TestWrongIntentionsAreRefused(t *testing.T) {
	permission := func(p *policyv1.IntentionPermission) *policyv1.ServicePolicy { return intentions(from("web", 0, p)) }
	unknown := intentions(from("web", 0, exactly(allow, "/a.B/C")))
	unknown.Intentions.Sources[0].Permissions[0].ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	wrongDefault := intentions()
	wrongDefault.Intentions.Default = ptr(policyv1.IntentionAction(7))
	for _, tt := range []struct {
		policy *policyv1.ServicePolicy
		want   []string
	}{
		{wrongDefault, []string{"intentions.default", "7", "INTENTION_ACTION_DENY"}},
		{intentions(from("", allow)), []string{"intentions.sources[0].name", `""`}},
		{intentions(from("web ", allow)), []string{"intentions.sources[0].name", `"web "`, "letters, digits"}},
		{intentions(from("we*", allow)), []string{"intentions.sources[0].name", `"we*"`, "* alone"}},
		{intentions(from("spiffe://example.org", allow)), []string{"intentions.sources[0].name", "spiffe://example.org", "is no SPIFFE id"}},
		{intentions(from("spiffe://Example.org/web", allow)), []string{"intentions.sources[0].name", "is no SPIFFE id"}},
		{intentions(from("spiffe://example.org/shop/*", allow)), []string{"intentions.sources[0].name", "without *"}},
		{intentions(from("web", allow), from("web", deny)), []string{"intentions.sources[1].name", `"web" is given twice`}},
		{intentions(from("web", 0)), []string{"intentions.sources[0].action", "INTENTION_ACTION_UNSPECIFIED", "INTENTION_ACTION_ALLOW"}},
		{intentions(from("web", 9)), []string{"intentions.sources[0].action", "9"}},
		{intentions(from("web", allow, exactly(allow, "/a.B/C"))), []string{"intentions.sources[0].action", `"allow" beside permissions`}},
		{intentions(from("web", 0, exactly(0, "/a.B/C"))), []string{"intentions.sources[0].permissions[0].action", "INTENTION_ACTION_UNSPECIFIED"}},
		{intentions(from("web", 0, exactly(allow, ""))), []string{"intentions.sources[0].permissions[0].path_exact", `""`, "/package.Service/Method"}},
		{intentions(from("web", 0, exactly(allow, "GetSweet"))), []string{"permissions[0].path_exact", `"GetSweet"`}},
		{permission(&policyv1.IntentionPermission{Action: deny, Path: &policyv1.IntentionPermission_PathPrefix{}}), []string{"permissions[0].path_prefix", `""`}},
		{permission(&policyv1.IntentionPermission{Action: deny, Path: &policyv1.IntentionPermission_PathRegex{}}), []string{"permissions[0].path_regex", `""`}},
		{permission(&policyv1.IntentionPermission{Action: deny, Path: &policyv1.IntentionPermission_PathRegex{PathRegex: "("}}), []string{"intentions.sources[0].permissions[0].path_regex", `"("`}},
		{permission(&policyv1.IntentionPermission{Action: deny, Path: &policyv1.IntentionPermission_PathRegex{PathRegex: strings.Repeat("a", 2000)}}), []string{"path_regex", "2000 bytes"}},
		{permission(&policyv1.IntentionPermission{Action: deny}), []string{"intentions.sources[0].permissions[0]: no condition"}},
		{permission(&policyv1.IntentionPermission{Action: deny, Methods: []string{"POST", "post"}}), []string{"permissions[0].methods[1]", `"post"`}},
		{withHeader(&policyv1.IntentionHeader{Name: "tenant"}), []string{"permissions[0].headers[0]", `"tenant"`, "not 0"}},
		{withHeader(&policyv1.IntentionHeader{Name: "tenant", Match: &policyv1.IntentionHeader_Exact{}}), []string{"permissions[0].headers[0]", "not 0"}},
		{withHeader(&policyv1.IntentionHeader{Name: "tenant", Match: &policyv1.IntentionHeader_Present{}}), []string{"headers[0].present", "false"}},
		{withHeader(&policyv1.IntentionHeader{Match: &policyv1.IntentionHeader_Present{Present: true}}), []string{"headers[0]", "no name"}},
		{withHeader(&policyv1.IntentionHeader{Name: "grpc-timeout", Match: &policyv1.IntentionHeader_Exact{Exact: "1S"}}), []string{"headers[0]", "grpc-timeout"}},
		{withHeader(&policyv1.IntentionHeader{Name: "a", Match: &policyv1.IntentionHeader_Regex{Regex: ")("}}), []string{"headers[0]", "regex"}},
		{withHeader(&policyv1.IntentionHeader{Name: "a", IgnoreCase: true, Match: &policyv1.IntentionHeader_Regex{Regex: "x"}}), []string{"headers[0]", "ignore case"}},
		{unknown, []string{"intentions.sources[0].permissions[0]", "this version does not know"}},
	} {
		refused(t, tt.policy, tt.want...)
	}
	many := intentions()
	for i := range intention.MaxIntentions + 1 {
		many.Intentions.Sources = append(many.Intentions.Sources, from(fmt.Sprint("s", i), allow))
	}
	refused(t, many, "intentions.sources", "10001")
}

// A contract that is registered late and is wrong must not open its service.
func TestWrongIntentionsOfALateContractDeny(t *testing.T) {
	for _, tt := range []struct{ list, timeout, want string }{
		{`{sources: {name: "web", action: INTENTION_ACTION_ALLOW}}`, "1s", "true false"},
		{`{sources: {name: "web", action: INTENTION_ACTION_ALLOW}}`, "soon", "true false"},
		{`{sources: [{name: "web", action: INTENTION_ACTION_ALLOW}, {name: "ops", permissions: {action: INTENTION_ACTION_ALLOW, path_regex: "("}}]}`, "1s", "false false"},
	} {
		files := prototest.Files(t, "late/v1/late.proto", fmt.Sprintf(`syntax = "proto3"; package late.v1;
import "meshlite/policy/v1/policy.proto";
message M {}
service LateService {
  option (meshlite.policy.v1.service) = {intentions: %s, default: {timeout: %q}};
  rpc Get(M) returns (M);
}`, tt.list, tt.timeout))
		service, err := files.FindDescriptorByName("late.v1.LateService")
		if err != nil {
			t.Fatal(err)
		}
		set := interceptors.LateIntentions(service.(protoreflect.ServiceDescriptor), "/late.v1.LateService/Get")
		if set == nil {
			t.Errorf("%s opens the service", tt.list)
			continue
		}
		if got := decide(t, *set, "/late.v1.LateService/Get", "web", "ops"); got != tt.want {
			t.Errorf("%s: web and ops may call: %s, want %s", tt.list, got, tt.want)
		}
	}
}

// Whatever policy is accepted decides about every call, and allows nobody whom it does not
// name unless it says so.
func FuzzIntentions(f *testing.F) {
	for _, policy := range []*policyv1.ServicePolicy{
		intentions(from("web", allow), from("*", deny)),
		intentions(from("spiffe://example.org/shop/web", 0, exactly(deny, "/a.B/C"), &policyv1.IntentionPermission{Action: allow, Methods: []string{"POST"}})),
		withHeader(&policyv1.IntentionHeader{Name: "tenant", Invert: true, Match: &policyv1.IntentionHeader_Contains{Contains: "x"}}),
	} {
		binary, err := proto.Marshal(policy.Intentions)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(binary, "web", "/a.B/C", "x")
	}
	f.Fuzz(func(t *testing.T, binary []byte, source, method, value string) {
		list := &policyv1.Intentions{}
		if proto.Unmarshal(binary, list) != nil {
			return
		}
		policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Intentions: list})
		if err != nil {
			if !strings.Contains(err.Error(), "intentions") {
				t.Errorf("%v: the error names no field", err)
			}
			return
		}
		set := policies.Call(interceptors.Server, method).Intentions
		if set == nil != list.GetDisabled() {
			t.Fatalf("%v has the intentions %v", list, set)
		}
		if set == nil {
			return
		}
		rules, err := intention.Compile("catalog", *set)
		if err != nil || len(rules.Refused()) > 0 {
			t.Fatalf("%v is accepted and refused: %v, %v", list, err, rules.Refused())
		}
		decision := rules.Method(method).From(source).Decide(func(string) []string { return []string{value} })
		named := func(s *policyv1.SourceIntention) bool { return s.GetName() == source || s.GetName() == "*" }
		if decision.Allowed && list.GetDefault() != allow && !slices.ContainsFunc(list.GetSources(), named) {
			t.Errorf("%v allows %q, which it does not name", list, source)
		}
	})
}

// Every field of a permission must be read: one that is left out would be a condition less.
func TestNoFieldOfAnIntentionIsForgotten(t *testing.T) {
	names := func(m proto.Message) []string {
		var all []string
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			all = append(all, string(fields.Get(i).Name()))
		}
		return all
	}
	for want, m := range map[string]protoreflect.ProtoMessage{
		"sources default disabled":                                           &policyv1.Intentions{},
		"name action permissions":                                            &policyv1.SourceIntention{},
		"action path_exact path_prefix path_regex methods headers":           &policyv1.IntentionPermission{},
		"name present exact prefix suffix contains regex invert ignore_case": &policyv1.IntentionHeader{},
	} {
		if got := strings.Join(names(m), " "); got != want {
			t.Errorf("%s has %q, and %q is read", m.ProtoReflect().Descriptor().Name(), got, want)
		}
	}
}
