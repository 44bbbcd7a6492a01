package edge

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/gateway/problem"
)

const (
	forwardedFor = "X-Forwarded-For"
	forwarded    = "Forwarded"
)

// maxToken and maxSubject bound what a caller shows, in bytes.
const (
	maxToken   = 8 << 10
	maxSubject = 1 << 10
)

// Caller is who sent a request.
type Caller struct {
	// Address is invalid if the peer has no IP address, such as that of a Unix socket.
	Address netip.Addr
	// Subject is that of a verified token, or the identity of a verified client certificate as
	// package caller writes it. "" is nobody.
	Subject string
}

// CallerOf is the caller of the request with ctx. It is the zero Caller outside of
// [Edge.Handler].
func CallerOf(ctx context.Context) Caller {
	if rec := recordOf(ctx); rec != nil {
		return rec.caller
	}
	return Caller{}
}

// Verifier verifies bearer tokens: package gateway/jwt has one. It is called concurrently.
type Verifier interface {
	// Verify returns the subject of token, which is never "". The text of an error is shown to
	// the caller: it must not repeat the token. An error with a method Temporary() bool that
	// returns true is 503: the token could not be verified.
	Verify(ctx context.Context, token string) (subject string, err error)
}

// peerAddress is where a request's connection comes from.
type peerAddress struct {
	netip.Addr
	trusted bool
}

// proxies are those in front that are trusted to write for whom they call.
type proxies struct {
	trusted     []netip.Prefix
	forwardedBy string // the header in which they write it
	callers     *caller.Callers
}

func newProxies(c *Config) (*proxies, error) {
	p := &proxies{trusted: c.TrustedProxies}
	switch http.CanonicalHeaderKey(c.ForwardedBy) {
	case "", forwardedFor:
		p.forwardedBy = forwardedFor
	case forwarded:
		p.forwardedBy = forwarded
	default:
		return nil, wrong("ForwardedBy", "%q: write X-Forwarded-For or Forwarded", c.ForwardedBy)
	}
	var err error
	if p.callers, err = caller.New(caller.WithTrustedPrefixes(c.TrustedProxies...)); err != nil {
		return nil, wrong("TrustedProxies", "%w", err)
	}
	return p, nil
}

func (p *proxies) peerOf(r *http.Request) peerAddress {
	addr, err := caller.ParseAddress(r.RemoteAddr)
	if err != nil {
		return peerAddress{}
	}
	return peerAddress{addr, trusts(p.trusted, addr)}
}

// address is that of the caller.
func (p *proxies) address(peer peerAddress, r *http.Request) netip.Addr {
	if !peer.trusted {
		return peer.Addr
	}
	return p.callers.AddressBehind(peer.Addr, p.hops(r))
}

// hops are the lines of X-Forwarded-For, or what Forwarded says of the same.
func (p *proxies) hops(r *http.Request) []string {
	if p.forwardedBy == forwardedFor {
		return r.Header[forwardedFor]
	}
	var hops []string
	for _, line := range r.Header[forwarded] {
		// A comma inside of quotes separates too: what a caller has left open must not hide what
		// the proxy has appended.
		for element := range strings.SplitSeq(line, ",") {
			hops = append(hops, cmp.Or(parameterOf(element, "for"), "unknown"))
		}
	}
	return hops
}

// protoOf is the scheme by which the caller came to the trusted proxy that sends r, "" if it
// does not say so in the header that it writes.
func (p *proxies) protoOf(r *http.Request) string {
	if p.forwardedBy == forwardedFor {
		if values := r.Header["X-Forwarded-Proto"]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	all := strings.Join(r.Header[forwarded], ",")
	return parameterOf(all[strings.LastIndexByte(all, ',')+1:], "proto")
}

// forwarded returns what X-Forwarded-For and -Proto are for a backend that r is passed on to:
// its peer is the last hop, and what comes before it is what a trusted proxy says.
func (p *proxies) forwarded(r *http.Request) (hops []string, proto string) {
	proto = "http"
	if r.TLS != nil {
		proto = "https"
	}
	peer := p.peerOf(r)
	if peer.trusted {
		hops = p.hops(r)
		if said := p.protoOf(r); said == "http" || said == "https" {
			proto = said
		}
	}
	if peer.IsValid() {
		hops = append(slices.Clone(hops), peer.String())
	}
	return hops, proto
}

// parameterOf is the value of a parameter in an element of Forwarded (RFC 7239), or "" if it has
// none.
func parameterOf(element, wanted string) (found string) {
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if !strings.EqualFold(name, wanted) {
			continue
		}
		if found != "" {
			return ""
		}
		if quoted, ok := strings.CutPrefix(value, `"`); ok {
			if value, ok = strings.CutSuffix(quoted, `"`); !ok {
				return ""
			}
		}
		if found = value; strings.ContainsAny(found, `"\`) {
			return ""
		}
	}
	return found
}

// authentication finds out on whose behalf a request is made.
type authentication struct {
	verifier Verifier // nil leaves tokens alone
	required bool
	public   []string // paths that need no subject all the same
}

func newAuthentication(c *Config) (*authentication, error) {
	for _, path := range c.Public {
		if !strings.HasPrefix(path, "/") {
			return nil, wrong("Public", "%q: write a path that begins with /", path)
		}
	}
	return &authentication{c.Verifier, c.RequireSubject, c.Public}, nil
}

// authenticate finds the subject. It answers, and returns false, if the token is not valid or
// a subject is required.
func (a *authentication) authenticate(rec *record, w http.ResponseWriter, r *http.Request) bool {
	// The certificate of a proxy is not that of its callers.
	if identity, ok := caller.VerifiedTLS(r.TLS); ok && !rec.peer.trusted {
		rec.caller.Subject, rec.certificate = identity, identity
	}
	if a.verifier != nil && !a.verify(rec, w, r) {
		return false
	}
	if rec.caller.Subject == "" && a.required && !matches(a.public, r.URL.Path) {
		rec.refused = refusedSubject
		unauthenticated(w, "", "this needs a caller with an identity: send a bearer token")
		return false
	}
	return true
}

func (a *authentication) verify(rec *record, w http.ResponseWriter, r *http.Request) bool {
	values := r.Header["Authorization"]
	if len(values) > 1 {
		rec.refused = refusedToken
		unauthenticated(w, "invalid_request", "there are several Authorization headers: send one")
		return false
	}
	token, ok := bearer(values)
	if !ok {
		return true
	}
	subject, err := "", errors.New("the token is longer than 8 KiB")
	if len(token) <= maxToken {
		subject, err = a.verifier.Verify(r.Context(), token)
	}
	switch temporary := (interface{ Temporary() bool })(nil); {
	case err != nil && errors.As(err, &temporary) && temporary.Temporary():
		rec.refused = refusedToken
		w.Header().Set("Retry-After", "1")
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Detail: cut(err.Error())})
		return false
	case err == nil && (subject == "" || len(subject) > maxSubject):
		err = errors.New("the token has no subject, or one of more than 1 KiB")
	case err == nil && likeCertificate(subject):
		err = errors.New("the token's subject has the form of a certificate's identity")
	}
	if err != nil {
		rec.refused = refusedToken
		unauthenticated(w, "invalid_token", cut(err.Error()))
		return false
	}
	rec.caller.Subject, rec.certificate = subject, ""
	return true
}

// likeCertificate reports whether backends could take a token's subject for the identity of a
// certificate: whoever issues tokens does not speak for services.
func likeCertificate(subject string) bool {
	return strings.HasPrefix(subject, "spiffe:") || strings.HasPrefix(subject, `subject "`)
}

func bearer(values []string) (token string, ok bool) {
	if len(values) == 0 {
		return "", false
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

// unauthenticated is 401 with the challenge of RFC 6750.
func unauthenticated(w http.ResponseWriter, code, detail string) {
	challenge := "Bearer"
	if code != "" {
		challenge += ` error="` + code + `"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	problem.Write(w, problem.Problem{Status: http.StatusUnauthorized, Code: "UNAUTHENTICATED", Detail: detail})
}

func secondsText(d time.Duration) string { return formatUint(ceilSeconds(d)) }
