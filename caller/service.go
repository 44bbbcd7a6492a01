package caller

import "strings"

// ServiceOf splits a SPIFFE id of Consul's default namespace and partition, exactly in its
// form: spiffe://DOMAIN/ns/default/dc/DATACENTER/svc/SERVICE. It is as strict as
// identity.ParseID, which allocates.
func ServiceOf(id string) (domain, service string, ok bool) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return "", "", false
	}
	domain, rest, _ = strings.Cut(rest, "/")
	rest, ok = strings.CutPrefix(rest, "ns/default/dc/")
	datacenter, rest, more := strings.Cut(rest, "/")
	service, svc := strings.CutPrefix(rest, "svc/")
	return domain, service, ok && more && svc && segment(domain) && segment(datacenter) && segment(service)
}

// segment reports whether text may be a part of an id, and no more than one: letters, digits
// and ._- alone.
func segment(text string) bool {
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return text != "" && text != "." && text != ".."
}
