package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

const good = "spiffe://" + domain + "/ns/default/dc/dc1/svc/catalog"

// otherForms are texts that a tolerant reader takes for good.
var otherForms = []string{
	"", "spiffe://", "spiffe:///ns/default/dc/dc1/svc/catalog",
	strings.Replace(good, "spiffe", "SPIFFE", 1),
	strings.Replace(good, "spiffe", "https", 1),
	strings.Replace(good, "consul", "Consul", 1),
	strings.Replace(good, "/ns/", "/NS/", 1),
	strings.Replace(good, "/svc/", "/Svc/", 1),
	strings.Replace(good, "catalog", "%63atalog", 1),
	strings.Replace(good, "catalog", "cat%2Falog", 1),
	strings.Replace(good, "catalog", "cata log", 1),
	strings.Replace(good, "catalog", "c\x00", 1),
	strings.Replace(good, "catalog", "cätalog", 1),
	strings.Replace(good, "catalog", "..", 1),
	strings.Replace(good, "catalog", "", 1),
	strings.Replace(good, "dc1", ".", 1),
	strings.Replace(good, "spiffe://", "spiffe://user@", 1),
	strings.Replace(good, ".consul", ".consul:443", 1),
	strings.Replace(good, "/ns/", "//ns/", 1),
	strings.Replace(good, "/ns/", "/ap/default/ns/", 1),
	strings.Replace(good, "/ns/", "/ap//ns/", 1),
	good + "/", good + "/more", good + "?", good + "?x=1", good + "#", good + " ", " " + good,
	"spiffe://" + strings.Repeat("a", 256) + "/ns/default/dc/dc1/svc/catalog",
	good + strings.Repeat("a", 2048),
}

// Case I11: A SPIFFE id in another form (case, escapes, more path, two URIs) is refused, not
// normalised.
func TestAnIDInAnotherFormIsRefused(t *testing.T) {
	if id, err := identity.ParseID(good); err != nil || id != idOf("catalog") || id.String() != good {
		t.Fatalf("the right form: %v, %v", id, err)
	}
	withPartition := strings.Replace(good, "/ns/", "/ap/billing/ns/", 1)
	if id, err := identity.ParseID(withPartition); err != nil || id.Partition != "billing" || id.String() != withPartition {
		t.Fatalf("with a partition: %v, %v", id, err)
	}
	authority := certtest.New(t)
	if _, err := identity.IDOf(authority.IssueID(t, time.Hour, good).Leaf); err != nil {
		t.Fatal(err)
	}
	for _, uri := range otherForms {
		if id, err := identity.ParseID(uri); err == nil {
			t.Errorf("%q is read as %v", uri, id)
		}
		if parseable(uri) {
			if id, err := identity.IDOf(authority.IssueID(t, time.Hour, uri).Leaf); err == nil {
				t.Errorf("a certificate with %q is of %v", uri, id)
			}
		}
	}
	for _, uris := range [][]string{nil, {good, good}, {good, "https://example.com"}} {
		if id, err := identity.IDOf(authority.IssueID(t, time.Hour, uris...).Leaf); err == nil {
			t.Errorf("a certificate with %d URIs is of %v", len(uris), id)
		}
	}
}

// parseable leaves out what crypto/x509 refuses to sign or to read.
func parseable(uri string) bool {
	return len(uri) < 300 && strings.HasPrefix(strings.ToLower(uri), "spiffe://") && !strings.ContainsAny(uri, "\x00ä ")
}

func FuzzParseID(f *testing.F) {
	f.Add(good)
	for _, uri := range otherForms {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, text string) {
		of, notSPIFFE := identity.ParseSPIFFE(text)
		if notSPIFFE == nil && (of.String() != text || of.TrustDomain == "" || strings.ContainsAny(of.TrustDomain, "/%?#@: ")) {
			t.Errorf("%q is read as %q of %q", text, of, of.TrustDomain)
		}
		id, err := identity.ParseID(text)
		if err != nil {
			return
		}
		if notSPIFFE != nil || of != id {
			t.Errorf("%q is %v of Consul's form, and %v, %v of any", text, id, of, notSPIFFE)
		}
		if id.String() != text {
			t.Errorf("%q is read as %q", text, id)
		}
		for _, part := range []string{id.TrustDomain, id.Partition, id.Namespace, id.Datacenter, id.Service} {
			if part == "" || strings.ContainsAny(part, "/%?#@: ") {
				t.Errorf("%q has a part %q", text, part)
			}
		}
	})
}
