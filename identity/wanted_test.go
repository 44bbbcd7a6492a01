package identity_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// spiffe are credentials of an authority whose ids have another form than Consul's.
func spiffe(t *testing.T, authority *certtest.Authority, id string, opts ...identity.Option) *identity.Credentials {
	t.Helper()
	s, err := identity.NewSPIFFESnapshot(authority.IssueID(t, time.Hour, id), []*x509.Certificate{authority.Certificate()})
	if err != nil {
		t.Fatal(err)
	}
	if s.ID().String() != id {
		t.Errorf("the id is %v, want %s", s.ID(), id)
	}
	return with(t, feed(s), opts...)
}

// A server must have the SPIFFE id that is set for the target's service, whatever form it has.
//
// Case I1
func TestAServerMustHaveTheIDThatIsSet(t *testing.T) {
	const catalog, storefront = "spiffe://example.org/shop/catalog", "spiffe://example.org/shop/storefront"
	authority := certtest.New(t)
	s := serve(t, spiffe(t, authority, catalog))
	for name, test := range map[string]struct {
		ids  map[string]string
		want identity.Reason // "" is a call that succeeds
	}{
		"listed":                  {map[string]string{"catalog": catalog}, ""},
		"by the rule for others":  {map[string]string{"*": "spiffe://example.org/shop/{service}"}, ""},
		"listed before the rule":  {map[string]string{"*": "spiffe://example.org/shop/{service}", "catalog": storefront}, identity.WrongService},
		"another service":         {map[string]string{"catalog": storefront}, identity.WrongService},
		"more path":               {map[string]string{"catalog": catalog + "/more"}, identity.WrongService},
		"another case":            {map[string]string{"catalog": "spiffe://example.org/shop/Catalog"}, identity.WrongService},
		"another trust domain":    {map[string]string{"catalog": "spiffe://example.com/shop/catalog"}, identity.WrongTrustDomain},
		"not set":                 {map[string]string{"inventory": catalog}, identity.UnknownService},
		"nothing set":             {nil, identity.UnknownService},
		"an id in Consul's form":  {map[string]string{"catalog": "spiffe://example.org/ns/default/dc/dc1/svc/catalog"}, identity.WrongService},
		"the rule for an address": {map[string]string{"*": "spiffe://example.org/{service}/catalog"}, identity.WrongService},
	} {
		mine := spiffe(t, authority, storefront, identity.WithServerIDs(test.ids))
		before := s.calls.Load()
		err := check(t, dial(t, s, mine))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), string(test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if err == nil && s.lastCaller() != storefront {
			t.Errorf("%s: the caller is %q", name, s.lastCaller())
		}
		if err != nil && s.calls.Load() != before {
			t.Errorf("%s: the handler ran", name)
		}
	}
}

// One mesh accepts ids of Consul's form only, although the authority has signed another.
//
// Case I11
func TestAnIDInAnotherFormIsOfAnotherMesh(t *testing.T) {
	authority := certtest.New(t)
	s := serve(t, of(t, authority, "catalog"))
	other := spiffe(t, authority, "spiffe://"+domain+"/shop/storefront", identity.WithServerIDs(map[string]string{"catalog": good}))
	if err := check(t, dial(t, s, other)); err == nil || s.calls.Load() != 0 {
		t.Errorf("a caller with an id in another form: %v", err)
	}
}

func TestServerIDsAreCheckedWhenBuilt(t *testing.T) {
	source := &identity.Feed{}
	for service, id := range map[string]string{
		"a": "catalog", "b": "spiffe://example.org", "c": "spiffe://example.org/", "d": "spiffe://Example.org/a", "e": "spiffe://example.org/a/../b",
		"f": "spiffe://example.org/a?b", "g": "spiffe://example.org/%61", "h": "spiffe://example.org/{service}", "i": "https://example.org/a",
		"*": "spiffe://example.org/one-for-all", "consul:///catalog": "spiffe://example.org/a", "": "spiffe://example.org/a",
	} {
		if _, err := identity.New(source, identity.WithServerIDs(map[string]string{service: id})); err == nil || !strings.Contains(err.Error(), "WithServerIDs") {
			t.Errorf("%q as %q: %v", service, id, err)
		}
	}
	domains := map[string]string{"*": "spiffe://{service}.example.org/a"}
	if _, err := identity.New(source, identity.WithServerIDs(domains)); err == nil || !strings.Contains(err.Error(), "in its path") {
		t.Errorf("a trust domain for each service: %v", err)
	}
}
