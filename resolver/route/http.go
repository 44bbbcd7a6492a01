package route

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/httpform"
)

// HTTPOnly lists the parts of c that only HTTP can mean, for a gateway: each names the part
// and what to write for gRPC. A chain of gRPC has none.
func (c *Chain) HTTPOnly() []string {
	var all, hashes problems
	for _, r := range c.Routes {
		if r == nil {
			continue // which Check refuses
		}
		if r.PrefixRewrite != "" {
			all.addf("%s: PrefixRewrite %q: the path of a call of gRPC is its method: leave it out", r.Name, r.PrefixRewrite)
		}
		for _, q := range r.Match.Query {
			all.addf("%s: QueryParam %q: a call of gRPC has no query: match a Header", r.Name, q.Name)
		}
		if m := r.Match.Methods; len(m) > 0 && !slices.Contains(m, methodOfGRPC) {
			all.addf("%s: Methods %s: every call of gRPC is a POST: add POST, or leave them out", r.Name, strings.Join(m, ", "))
		}
		for _, h := range r.Match.Headers {
			if h.Name != ":path" && h.Name != ":method" && reserved(h.Name) {
				all.addf("%s: the Header %q is not in the metadata of calls: match another", r.Name, h.Name)
			}
		}
		for _, part := range r.Retry.refusedBy("gRPC", conditionsOfGRPC, unavailable) {
			all.addf("%s: %s", r.Name, part)
		}
		for _, a := range r.Arms {
			if t := c.targetOf(a); t != nil && a.LoadBalancer != nil && a.LoadBalancer.HashFrom != "" {
				hashes.addf("service-resolver %q: LoadBalancer HashPolicies Field %q: a call of gRPC has metadata alone: write the Field \"header\"", t.Service, a.LoadBalancer.HashFrom)
			}
		}
	}
	slices.Sort(hashes)
	return append(all, slices.Compact(hashes)...) // arms share a resolver
}

func (c *Chain) targetOf(a *Arm) *Target {
	if a == nil {
		return nil
	}
	return c.Targets[a.Target]
}

// ForHTTP returns what a [Watcher] has reported, for requests of HTTP: chain and err are those of
// gRPC. A chain that gRPC refuses for parts that only HTTP can mean is good; one with a part that
// only gRPC can mean is refused by a [*RefusedError].
func ForHTTP(chain *Chain, err error) (*Chain, error) {
	var refused *RefusedError
	if errors.As(err, &refused) {
		if refused.HTTP == nil {
			other := *refused
			if n := refused.Common; n > 0 && n < len(refused.Parts) {
				other.Parts = refused.Parts[:n]
			}
			return nil, &other
		}
		chain, err = refused.HTTP, nil
	}
	if chain == nil || err != nil {
		return nil, err
	}
	if err := chain.Check(); err != nil {
		return nil, err
	}
	if parts := chain.grpcOnly(); len(parts) > 0 {
		return nil, &RefusedError{Service: chain.Service, Protocol: chain.Protocol, Index: chain.Index, Parts: parts, Common: len(parts)}
	}
	return chain, nil
}

// ForItsProtocol returns what a [Watcher] has reported, for who calls the service by the protocol
// of its service-defaults: see [ForHTTP]. HTTP/2 may be gRPC, and is refused only for both.
func ForItsProtocol(chain *Chain, err error) (*Chain, error) {
	var refused *RefusedError
	isRefused, protocol := errors.As(err, &refused), ""
	switch {
	case isRefused:
		protocol = refused.Protocol
	case chain != nil:
		protocol = chain.Protocol
	}
	if protocol == "http" || protocol == "http2" && isRefused {
		return ForHTTP(chain, err)
	}
	return chain, err
}

// grpcOnly lists the parts of c, which has passed its Check, that HTTP cannot mean.
func (c *Chain) grpcOnly() []string {
	var all problems
	for _, r := range c.Routes {
		if err := r.checkRewrite(); err != nil {
			all.addf("%s: %v", r.Name, err)
		}
		for _, part := range r.Retry.refusedBy("HTTP", conditionsOfHTTP, nil) {
			all.addf("%s: %s", r.Name, part)
		}
		for _, a := range r.Arms {
			for _, headers := range slices.Concat(a.Request, a.Response) {
				for key := range headers.changes() {
					if httpform.IsClaim(key) {
						all.addf("%s, arm %s: changes the header %q, in which services read from a proxy who calls: write another", r.Name, a.Name, key)
					}
				}
			}
		}
	}
	slices.Sort(all) // the changes are of maps
	return slices.Compact(all)
}

// checkRewrite reports a PrefixRewrite that could not make the path of a request.
func (r *Route) checkRewrite() error {
	to := r.PrefixRewrite
	if to == "" {
		return nil
	}
	if r.Match.PathExact+r.Match.PathPrefix == "" {
		return fmt.Errorf("PrefixRewrite %q without a PathPrefix or a PathExact: write one", to)
	}
	decoded, err := url.PathUnescape(to)
	if err != nil || !strings.HasPrefix(to, "/") || strings.ContainsAny(to, "?#\\") || httpform.CheckPath(decoded) != nil || (&url.URL{Path: decoded, RawPath: to}).EscapedPath() != to {
		return fmt.Errorf("PrefixRewrite %q is no path: write one such as \"/v2/\", percent-encoded, without a query and without . and .. in it", to)
	}
	return nil
}

// Rewrite replaces what the route has matched of the path of u by PrefixRewrite; the rest stays as
// it was encoded. The slash after the prefix is not doubled. u, which the route has matched, is
// not changed. A result that servers could read in several ways, as with a segment "..", is an
// error.
func (r *Route) Rewrite(u *url.URL) (*url.URL, error) {
	if r.PrefixRewrite == "" {
		return u, nil
	}
	rest := ""
	if r.Match.PathExact == "" {
		rest = withoutDecoded(u.EscapedPath(), len(r.Match.PathPrefix))
	}
	escaped := r.PrefixRewrite + rest
	if strings.HasPrefix(rest, "/") && !strings.HasSuffix(r.Match.PathPrefix, "/") {
		escaped = strings.TrimSuffix(r.PrefixRewrite, "/") + rest
	}
	path, err := url.PathUnescape(escaped)
	if err == nil {
		err = httpform.CheckPath(path)
	}
	if err != nil {
		return nil, fmt.Errorf("the path that %s makes: %w", r.Name, err)
	}
	to := *u
	to.Path, to.RawPath = path, escaped
	return &to, nil
}

// withoutDecoded is a percent-encoded path without its first n bytes, decoded.
func withoutDecoded(escaped string, n int) string {
	for ; n > 0 && escaped != ""; n-- {
		if escaped[0] == '%' {
			escaped = escaped[min(2, len(escaped)-1):]
		}
		escaped = escaped[1:]
	}
	return escaped
}

// MatchHTTP is [Chain.Match] for a request of HTTP, whose path is matched decoded and without its
// query.
func (c *Chain) MatchHTTP(r *http.Request) (*Route, int) { return c.match(requestOf(r)) }

// ExplainHTTP is [Chain.Explain] for a request of HTTP.
func (c *Chain) ExplainHTTP(r *http.Request) []Verdict { return c.explain(requestOf(r)) }

func requestOf(r *http.Request) *request {
	return &request{path: r.URL.Path, method: r.Method, md: headerOf{r}, query: &parameters{url: r.URL}}
}

type headerOf struct{ *http.Request }

func (h headerOf) Get(key string) []string {
	if key == ":authority" || key == "host" {
		return []string{h.Host}
	}
	return h.Header[textproto.CanonicalMIMEHeaderKey(key)]
}

// parameters are those of a query, which is parsed when a route asks for one.
type parameters struct {
	url    *url.URL
	values url.Values
}

// Get returns the values of key.
func (p *parameters) Get(key string) []string {
	if p.values == nil {
		p.values = p.url.Query()
	}
	return p.values[key]
}
