package authz_test

import (
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
)

// Case I11
func FuzzServiceOf(f *testing.F) {
	for _, text := range []string{id("web"), id(".."), id("w%65b"), id("web") + "/x", "spiffe://D.consul/ns/default/dc/dc1/svc/web",
		"spiffe://d/ap/default/ns/default/dc/dc1/svc/web", "spiffe://d/ns/other/dc/dc1/svc/web", "SPIFFE://d/ns/default/dc/dc1/svc/web", `subject "x" names []`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		domain, service, ok := caller.ServiceOf(text)
		if len(text) > 2000 || strings.ToLower(domain) != domain {
			return // identity refuses the certificate
		}
		parsed, err := identity.ParseID(text)
		want := err == nil && parsed.Namespace == "default" && parsed.Partition == "default"
		if ok != want || ok && (parsed.TrustDomain != domain || parsed.Service != service) {
			t.Errorf("%q: domain %q, service %q, %t; identity has %+v, %v", text, domain, service, ok, parsed, err)
		}
	})
}
