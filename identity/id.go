package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// maxID is the SPIFFE standard's limit on an id, in bytes.
const maxID = 2048

const (
	scheme           = "spiffe://"
	defaultPartition = "default"
	maxTrustDomain   = 255
)

// ID is the SPIFFE id of a service in the form of Consul:
//
//	spiffe://TRUST-DOMAIN[/ap/PARTITION]/ns/NAMESPACE/dc/DATACENTER/svc/SERVICE
//
// IDs are comparable. The partition "default" is left out of the text.
//
// An id in another form, as other authorities than Consul's have it, is TrustDomain and Path.
type ID struct {
	TrustDomain, Partition, Namespace, Datacenter, Service string
	Path                                                   string // "/shop/catalog"; "" is Consul's form
}

// String returns the id as certificates have it.
func (id ID) String() string {
	if id.Path != "" {
		return scheme + id.TrustDomain + id.Path
	}
	partition := ""
	if id.Partition != defaultPartition && id.Partition != "" {
		partition = "/ap/" + id.Partition
	}
	return scheme + id.TrustDomain + partition + "/ns/" + id.Namespace + "/dc/" + id.Datacenter + "/svc/" + id.Service
}

// ParseID reads an id. It accepts what [ID.String] writes and nothing else: another case, an
// escape, a query or more segments are an error, since two texts must not be one service.
func ParseID(text string) (ID, error) {
	if len(text) > maxID {
		return ID{}, fmt.Errorf("identity: SPIFFE id of %d bytes: the limit is %d", len(text), maxID)
	}
	rest, ok := strings.CutPrefix(text, scheme)
	parts := strings.Split(rest, "/")
	id := ID{TrustDomain: parts[0], Partition: defaultPartition}
	if len(parts) == 9 && parts[1] == "ap" && parts[2] != defaultPartition {
		id.Partition = parts[2]
		parts = parts[2:]
	}
	if !ok || len(parts) != 7 || parts[1] != "ns" || parts[3] != "dc" || parts[5] != "svc" {
		return ID{}, fmt.Errorf("identity: %.200q is no SPIFFE id of a service: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/dc/DATACENTER/svc/SERVICE", text)
	}
	id.Namespace, id.Datacenter, id.Service = parts[2], parts[4], parts[6]
	if err := checkTrustDomain(id.TrustDomain, text); err != nil {
		return ID{}, err
	}
	for _, part := range []string{id.Partition, id.Namespace, id.Datacenter, id.Service} {
		if !segment(part) {
			return ID{}, fmt.Errorf("identity: SPIFFE id %.200q: its segment %.80q may have letters, digits and ._- only", text, part)
		}
	}
	return id, nil
}

func checkTrustDomain(domain, text string) error {
	if len(domain) > maxTrustDomain || !only(domain, "._-", false) {
		return fmt.Errorf("identity: SPIFFE id %.200q: its trust domain may have lower case letters, digits and ._- only", text)
	}
	return nil
}

// ParseSPIFFE reads an id in Consul's form, or in any other of the SPIFFE standard with a path. It
// is as strict as [ParseID]: nothing is normalised.
func ParseSPIFFE(text string) (ID, error) {
	if id, err := ParseID(text); err == nil {
		return id, nil
	}
	rest, ok := strings.CutPrefix(text, scheme)
	domain, path, named := strings.Cut(rest, "/")
	if !ok || !named || len(text) > maxID {
		return ID{}, fmt.Errorf("identity: %.200q is no SPIFFE id of a workload: want spiffe://TRUST-DOMAIN/PATH, at most %d bytes", text, maxID)
	}
	if err := checkTrustDomain(domain, text); err != nil {
		return ID{}, err
	}
	for part := range strings.SplitSeq(path, "/") {
		if !segment(part) {
			return ID{}, fmt.Errorf("identity: SPIFFE id %.200q: its segment %.80q may have letters, digits and ._- only", text, part)
		}
	}
	return ID{TrustDomain: domain, Path: "/" + path}, nil
}

// CheckService reports why a name can be no service of an [ID].
func CheckService(name string) error {
	if !segment(name) {
		return fmt.Errorf("identity: service %.80q: a SPIFFE id has letters, digits and ._- only: register the service under such a name", name)
	}
	return nil
}

func segment(text string) bool { return text != "." && text != ".." && only(text, "._-", true) }

// only reports whether text is not empty and has letters, digits and the bytes of more only.
func only(text, more string, upper bool) bool {
	for i := range len(text) {
		c := text[i]
		letter := 'a' <= c && c <= 'z' || upper && 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return text != ""
}

// IDOf returns the id of a certificate, in Consul's form, which must have that URI and no other.
func IDOf(certificate *x509.Certificate) (ID, error) { return idOf(certificate, false) }

func idOf(certificate *x509.Certificate, anyForm bool) (ID, error) {
	uris, err := urisOf(certificate)
	switch {
	case err != nil:
		return ID{}, err
	case len(uris) != 1:
		return ID{}, fmt.Errorf("identity: the certificate has %d URIs: a SPIFFE id must be the only one", len(uris))
	}
	if anyForm {
		return ParseSPIFFE(uris[0])
	}
	return ParseID(uris[0])
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// urisOf returns the URIs as they are in the certificate. Those of crypto/x509 went through
// net/url, which changes the case of a scheme and drops an empty fragment.
func urisOf(certificate *x509.Certificate) ([]string, error) {
	const tagURI = 6 // of GeneralName, RFC 5280
	var uris []string
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(subjectAltName) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 {
			return nil, errors.New("identity: the certificate's alternative names cannot be read")
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == tagURI {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris, nil
}
