// Package intention has Consul's intentions: who may call a service, and with which
// requests. It reads them, orders them as Consul does, and decides.
//
//	rules, err := intention.Compile("catalog", intention.Set{Intentions: []intention.Intention{
//		{Source: "web", Destination: "catalog", Action: intention.Allow},
//	}})
//	decision := rules.Method("/shop.Catalog/GetSweet").From("web").Decide(headers)
//
// # Which intention decides
//
// An intention with an exact destination comes before one for every destination, and then one
// with an exact source before one for every source. The first that matches decides, alone: if
// it has permissions and none of them matches the request, the default decides, and no other
// intention. That is what Consul's /v1/connect/intentions/check does, and for permissions what
// its proxies do for HTTP services. (Its proxies let "web => *" decide before "* => catalog".)
//
// A source that is a whole SPIFFE id ("spiffe://example.org/shop/web") comes before the name of
// a service. [Wildcard] stands for services alone: an id in another form than Consul's must be
// written out.
//
// # What is not understood
//
// Consul has intentions that need what this package has not: verified JWTs, sameness groups,
// and what a later version may add. Such an intention denies whomever it matches, and
// [Intention.Refused] has the reason. An intention whose source is in another namespace,
// partition or peer matches nobody, since this package decides about callers of the default
// namespace and partition; its reason is there too.
package intention

// Action is what an intention or a permission does with a call.
type Action string

// The actions, as Consul writes them.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// Wildcard is the source or destination that stands for every service.
const Wildcard = "*"

// Set holds the rules about the callers of a service.
type Set struct {
	// Intentions in any order. Those of other destinations are ignored.
	Intentions []Intention
	// Default decides where no intention matches, and where none of its permissions does. Any
	// value but [Allow] denies.
	Default Action
	// DefaultReason says more of where Default is from, "" if there is nothing to say.
	DefaultReason string
	// TrustDomain is the one that callers must be of, such as "example.consul". "" leaves that
	// to whoever has verified their certificates.
	TrustDomain string
}

// Intention is one rule, in the shape of Consul's. Have it from [Parse], or write it.
type Intention struct {
	Source      string // name of a service, or [Wildcard]; or a whole SPIFFE id, in any form
	Destination string // name of a service, or [Wildcard]
	// Action is "" if there are permissions.
	Action Action
	// Permissions are tried in order; the first that matches the request decides.
	Permissions []Permission

	// Refused is why this intention is not understood: it then denies. "" is that it is.
	Refused string
	// Elsewhere is why it matches nobody: "" is that it may.
	Elsewhere string
}

// Permission is about some of the requests of a source. Its conditions must all hold.
type Permission struct {
	Action Action
	// At most one of these, about the full method: "/shop.Catalog/GetSweet".
	PathExact, PathPrefix, PathRegex string
	// Methods are those of HTTP; empty is any. A gRPC call is a POST.
	Methods []string
	Headers []Header
}

// Header is a condition on metadata. Several values of a key are one, joined by commas.
// Without the key it does not hold, inverted or not, except that an inverted Present does.
type Header struct {
	Name string
	// One of these. Regex is RE2 and matches the whole value.
	Present                                bool
	Exact, Prefix, Suffix, Contains, Regex string

	Invert     bool
	IgnoreCase bool // of Exact, Prefix, Suffix and Contains
}

// String returns "web => catalog".
func (i *Intention) String() string { return i.Source + " => " + i.Destination }

// Precedence returns Consul's number for the intention: 9, 8, 6 or 5. The higher one comes
// first.
func (i *Intention) Precedence() int {
	precedence := 9
	if i.Destination == Wildcard {
		precedence -= 3
	}
	if i.Source == Wildcard {
		precedence--
	}
	return precedence
}
