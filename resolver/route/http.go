package route

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// HTTPOnly lists the parts of c that only HTTP can mean, for a gateway: each names the part
// and what to write for gRPC. A chain of gRPC has none.
func (c *Chain) HTTPOnly() []string {
	var all problems
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
	}
	return all
}

// MatchHTTP is [Chain.Match] for a request of HTTP, whose path is matched without its query.
func (c *Chain) MatchHTTP(r *http.Request) (*Route, int) { return c.match(requestOf(r)) }

// ExplainHTTP is [Chain.Explain] for a request of HTTP.
func (c *Chain) ExplainHTTP(r *http.Request) []Verdict { return c.explain(requestOf(r)) }

func requestOf(r *http.Request) *request {
	return &request{path: r.URL.Path, method: r.Method, md: headerOf{r}, query: parameters(r.URL.Query())}
}

type headerOf struct{ *http.Request }

func (h headerOf) Get(key string) []string {
	if key == ":authority" || key == "host" {
		return []string{h.Host}
	}
	return h.Header[textproto.CanonicalMIMEHeaderKey(key)]
}

type parameters url.Values

func (p parameters) Get(key string) []string { return p[key] }
