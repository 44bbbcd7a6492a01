package intention_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/identity/intention"
)

func compiled(t testing.TB, set intention.Set) *intention.Rules {
	t.Helper()
	rules, err := intention.Compile("catalog", set)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func none(string) []string { return nil }

// The class of CVE-2021-36213: an intention whose only permission denies was taken, with a
// default of deny, for one that decides by source alone, and allowed all other requests. In
// general: what permissions say must not be decided without the request, and an intention
// that has lost them must not allow.
func TestAnIntentionWithPermissionsNeverAllowsBySourceAlone(t *testing.T) {
	deny := intention.Permission{Action: intention.Deny, PathExact: "/shop.Cart/Add"}
	allow := intention.Permission{Action: intention.Allow, PathExact: "/shop.Cart/Add"}
	refused := intention.Permission{Action: intention.Allow, PathRegex: "("}
	for name, test := range map[string]struct {
		permissions []intention.Permission
		preset      intention.Action
		add, get    bool // of /shop.Cart/Add and of /shop.Catalog/Get
	}{
		"one that denies, default deny":          {[]intention.Permission{deny}, intention.Deny, false, false},
		"one that denies, default allow":         {[]intention.Permission{deny}, intention.Allow, false, true},
		"one that allows, default deny":          {[]intention.Permission{allow}, intention.Deny, true, false},
		"one that allows, default allow":         {[]intention.Permission{allow}, intention.Allow, true, true},
		"the first decides":                      {[]intention.Permission{deny, allow}, intention.Deny, false, false},
		"none that is left":                      {nil, intention.Deny, false, false},
		"none that is left, default allow":       {nil, intention.Allow, false, false},
		"one that is broken, default allow":      {[]intention.Permission{refused}, intention.Allow, false, false},
		"one that is broken is not passed over":  {[]intention.Permission{allow, refused}, intention.Deny, false, false},
		"one without an action is not an allow":  {[]intention.Permission{{PathPrefix: "/"}}, intention.Allow, false, false},
		"one without a condition is not for all": {[]intention.Permission{{Action: intention.Allow}}, intention.Allow, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, source := range []string{"web", "*"} {
				for _, others := range [][]intention.Intention{nil, {{Source: "web", Destination: "*", Action: intention.Allow}}, {{Source: "*", Destination: "*", Action: intention.Allow}}} {
					rules := compiled(t, intention.Set{Default: test.preset, Intentions: append(others, intention.Intention{Source: source, Destination: "catalog", Permissions: test.permissions})})
					for path, want := range map[string]bool{"/shop.Cart/Add": test.add, "/shop.Catalog/Get": test.get} {
						if got := rules.Method(path).From("web").Decide(none); got.Allowed != want {
							t.Errorf("%s => catalog beside %v, %s: allowed is %t by %s %s, want %t", source, others, path, got.Allowed, got.Rule, got.Reason, want)
						}
					}
				}
			}
		})
	}
}

// Case I9: `Permissions` with a kind that is not understood: that intention denies, and
// `check` says so.
func TestWhatIsNotUnderstoodDenies(t *testing.T) {
	const names = `"SourceName":"web","DestinationName":"catalog"`
	for text, reason := range map[string]string{
		`{` + names + `,"Action":"ALLOW"}`: `Action: "ALLOW": want allow or deny`,
		`{` + names + `,"Action":""}`:      `Action: "": want allow or deny`,
		`{` + names + `,"Action":"allow","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}`:                                                                   "beside permissions",
		`{` + names + `,"Action":"allow","Conditions":{"Time":"day"}}`:                                                                                                    `unknown field "Conditions"`,
		`{` + names + `,"Action":"allow","JWT":{}}`:                                                                                                                       "JWT",
		`{` + names + `,"Action":"allow","SourceSamenessGroup":"all"}`:                                                                                                    "sameness groups",
		`{` + names + `,"Action":"allow","SourceType":"vm"}`:                                                                                                              "SourceType",
		`{` + names + `,"Action":"allow","DestinationNS":"other"}`:                                                                                                        "namespaces are not supported",
		`{` + names + `,"Action":"allow","DestinationPartition":"other"}`:                                                                                                 "partitions are not supported",
		`{` + names + `,"Permissions":[{"Action":"allow","TCP":{}}]}`:                                                                                                     `unknown field "TCP"`,
		`{` + names + `,"Permissions":[{"Action":"allow"}]}`:                                                                                                              "only HTTP is supported",
		`{` + names + `,"Permissions":[null]}`:                                                                                                                            "only HTTP is supported",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathGlob":"/*"}}]}`:                                                                                     `unknown field "PathGlob"`,
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathExact":"/a","PathPrefix":"/"}}]}`:                                                                   "more than one of",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathRegex":")("}}]}`:                                                                                    "PathRegex",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathRegex":"` + strings.Repeat("a", 2000) + `"}}]}`:                                                     "2000 bytes",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathRegex":"(?:abcdefgh){1000}"}}]}`:                                                                    "PathRegex: \"(?:abcdefgh){1000}\", which is an expression of",
		`{` + names + `,"Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/","Header":[{"Name":"a","Regex":"(?:abcdefgh){1000}"}]}}]}`:                                "with its repetitions: write 2048 at most",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Header":[{"Name":"a","Glob":"x"}]}}]}`:                                                 `unknown field "Glob"`,
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Header":[{"Name":"a"}]}}]}`:                                                            "want one of",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Header":[null]}}]}`:                                                                    "null",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Header":[{"Present":true}]}}]}`:                                                        "no name",
		`{` + names + `,"Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/","Header":[{"Name":"grpc-timeout","Present":true}]}}]}`:                                   "gRPC keeps it",
		`{` + names + `,"Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/","Header":[{"Name":":scheme","Exact":"http"}]}}]}`:                                        ":authority, :path and :method",
		`{` + names + `,"Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/","Header":[{"Name":"key-bin","Exact":"AA=="}]}}]}`:                                        "present only",
		`{` + names + `,"Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/","Header":[{"Name":"a","Regex":"x","IgnoreCase":true}]}}]}`:                               "can ignore case",
		`{` + names + `,"Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}},{"Action":"allow","HTTP":{"PathPrefix":"/"},"JWT":{"Providers":[{"Name":"okta"}]}}]}`: "Permissions[1].JWT",
	} {
		parsed, err := intention.Parse([]byte("[" + text + `,{"SourceName":"*","DestinationName":"*","Action":"allow"}]`))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		rules := compiled(t, intention.Set{Intentions: parsed, Default: intention.Allow})
		got := rules.Explain("web", "/shop.Catalog/Get", none)
		if refused := rules.Refused(); got.Allowed || got.Rule != "web => catalog" || !strings.Contains(got.Reason, reason) || len(refused) != 1 || !strings.Contains(refused[0], reason) {
			t.Errorf("%s: %+v, refused %q: want it denied with %q", text, got.Decision, refused, reason)
		}
		if got.Without == nil || !got.Without.Allowed || !rules.Method("/a.B/C").From("ops").Decide(none).Allowed {
			t.Errorf("%s: the other intention does not decide: %+v", text, got.Without)
		}
	}
}

// An intention from another namespace, partition or peer matches nobody of this one.
func TestIntentionsFromElsewhereMatchNobody(t *testing.T) {
	for _, field := range []string{`"SourcePeer":"east"`, `"SourceNS":"other"`, `"SourcePartition":"other"`} {
		for action, preset := range map[string]intention.Action{"allow": intention.Deny, "deny": intention.Allow} {
			parsed, err := intention.Parse([]byte(`[{"SourceName":"web","DestinationName":"catalog",` + field + `,"Action":"` + action + `"}]`))
			if err != nil {
				t.Fatal(err)
			}
			rules := compiled(t, intention.Set{Intentions: parsed, Default: preset})
			if got := rules.Explain("web", "/a.B/C", none); got.Allowed != (preset == intention.Allow) || got.Rule != "default" || len(rules.Refused()) != 1 {
				t.Errorf("%s, %s: %+v, refused %q", field, action, got, rules.Refused())
			}
		}
	}
	if got := compiled(t, intention.Set{Intentions: []intention.Intention{{Source: "web", Destination: "cart", Action: intention.Allow}}}); got.Len() != 0 {
		t.Error("an intention of another destination is in force")
	}
}

// What is no list of intentions is an error, so that the last ones stay.
func TestDocumentsThatCannotBeRead(t *testing.T) {
	for _, text := range []string{``, `{}`, `"x"`, `[1]`, `[{}]`, `[{"SourceName":"web"}]`, `[{"SourceName":1,"DestinationName":"a"}]`,
		`[` + strings.Repeat(`{},`, intention.MaxIntentions) + `{}]`} {
		if parsed, err := intention.Parse([]byte(text)); err == nil {
			t.Errorf("%.40s: %v", text, parsed)
		}
	}
	for _, destination := range []string{"", "*"} {
		if _, err := intention.Compile(destination, intention.Set{}); err == nil {
			t.Errorf("destination %q is no error", destination)
		}
	}
}

func Example() {
	rules, err := intention.Compile("catalog", intention.Set{Intentions: []intention.Intention{
		{Source: "*", Destination: "catalog", Action: intention.Deny},
		{Source: "web", Destination: "catalog", Permissions: []intention.Permission{
			{Action: intention.Allow, PathPrefix: "/shop.Catalog/Get", Headers: []intention.Header{{Name: "tenant", Present: true}}},
		}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	headers := func(key string) []string { return map[string][]string{"tenant": {"a"}}[key] }
	get := rules.Explain("web", "/shop.Catalog/GetSweet", headers)
	fmt.Println(get.Allowed, "by", get.Rule, "and without it", get.Without.Allowed, "by", get.Without.Rule)
	fmt.Println(rules.Method("/shop.Catalog/AddSweet").From("web").Decide(headers).Reason)
	// Output:
	// true by web => catalog permission 1 and without it false by * => catalog
	// no permission of web => catalog matches
}

// No document turns a caller that no intention names, and no wildcard, into one that is
// allowed.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"SourceName":"web","DestinationName":"catalog","Action":"allow","Precedence":9}]`), "web", "/shop.Catalog/Get", "a")
	f.Add([]byte(`[{"SourceName":"*","DestinationName":"*","Permissions":[{"Action":"deny","HTTP":{"PathRegex":"/a.*","Methods":["POST"],"Header":[{"Name":"x","Contains":"A","IgnoreCase":true,"Invert":true}]}}]}]`), "x", "/a.B/C", "")
	f.Add([]byte(`[{"SourceName":"web","DestinationName":"catalog","SourcePeer":"p","Permissions":[null],"JWT":null}]`), "", "", "\xff")
	f.Fuzz(func(t *testing.T, text []byte, source, path, value string) {
		parsed, err := intention.Parse(text)
		if err != nil {
			return
		}
		rules, err := intention.Compile("catalog", intention.Set{Intentions: parsed, Default: intention.Deny})
		if err != nil {
			t.Fatal(err)
		}
		headers := func(string) []string { return []string{value} }
		got := rules.Method(path).From(source).Decide(headers)
		explained := rules.Explain(source, path, headers)
		if explained.Decision != *got {
			t.Errorf("decided %+v, explained %+v", got, explained.Decision)
		}
		named := false
		for _, i := range parsed {
			named = named || i.Refused == "" && (i.Source == source || i.Source == intention.Wildcard)
		}
		if got.Allowed && !named {
			t.Errorf("%q is allowed by %q", source, got.Rule)
		}
	})
}
