package route

// Match says which calls a route takes. The zero value matches every call.
type Match struct {
	// PathExact, PathPrefix and PathRegex are of the full method, "/package.Service/Method", and of
	// the decoded path of a request of HTTP; at most one of them is set. PathRegex is of RE2 and matches the whole path.
	PathExact  string `json:"path_exact,omitempty"`
	PathPrefix string `json:"path_prefix,omitempty"`
	PathRegex  string `json:"path_regex,omitempty"`
	// CaseInsensitive is of PathExact and PathPrefix, for the letters of ASCII. As in Envoy it
	// does not change PathRegex: write "(?i)" there.
	CaseInsensitive bool          `json:"case_insensitive,omitempty"`
	Headers         []HeaderMatch `json:"headers,omitempty"` // all of them
	// Methods are of HTTP; a call of gRPC is a POST. Empty matches every method.
	Methods []string `json:"methods,omitempty"`
	// Query is of HTTP alone, and all of it must match. Chains of gRPC do not have it.
	Query []QueryMatch `json:"query,omitempty"`
}

// HeaderMatch matches the values of one metadata key; several are joined by commas, as HTTP
// does. At most one of Exact to Regex is set; none matches a key that is present. As in
// Envoy, a key that is absent fulfils no condition but an inverted one of presence. The same
// holds for values of more than 8 KiB, or of 512 bytes for the largest expressions: they are
// not searched.
type HeaderMatch struct {
	// Name is in lower case. ":path" and ":method" are those of the call.
	Name     string `json:"name"`
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`
	Regex    string `json:"regex,omitempty"` // of RE2, matches the whole value
	// IgnoreCase is of Exact, Prefix, Suffix and Contains.
	IgnoreCase bool `json:"ignore_case,omitempty"`
	Invert     bool `json:"invert,omitempty"` // matches where it would not
}

// QueryMatch matches the first value of one parameter of a query. At most one of Exact and
// Regex is set; none matches a parameter that is present.
type QueryMatch struct {
	Name  string `json:"name"`
	Exact string `json:"exact,omitempty"`
	Regex string `json:"regex,omitempty"` // of RE2, matches the whole value
}

// Metadata is that of one call. gRPC's metadata.MD implements it.
type Metadata interface {
	// Get returns the values of key, which is in lower case.
	Get(key string) []string
}

// Match returns the first route that takes a call of gRPC, and its position. md may be nil.
// The route is nil, at -1, where [Chain.Check] fails. It does not allocate, unless a key that
// a route matches has several values, and takes time that is linear in the routes. It is safe
// for concurrent use.
func (c *Chain) Match(fullMethod string, md Metadata) (*Route, int) {
	r := request{path: fullMethod, method: methodOfGRPC, md: md}
	return c.match(&r)
}

func (c *Chain) match(r *request) (*Route, int) {
	if c.Check() != nil {
		return nil, -1
	}
	for i := range c.gates {
		if c.gates[i].open(r.path) && c.matchers[i].matches(r) {
			return c.Routes[i], i
		}
	}
	return nil, -1
}

// ReadsMetadata reports whether [Chain.Match] depends on metadata.
func (c *Chain) ReadsMetadata() bool { return c.Check() == nil && c.readsMetadata }

// Verdict says whether a route takes a call.
type Verdict struct {
	Route   *Route `json:"route"`
	Matches bool   `json:"matches"`
	// Reason is the first condition that does not hold, in the words of the route: it has no
	// value of the call's metadata, which may be secret.
	Reason string `json:"reason,omitempty"`
}

// Explain returns the verdicts of the routes about a call of gRPC, up to the first that
// matches. It is nil where [Chain.Check] fails.
func (c *Chain) Explain(fullMethod string, md Metadata) []Verdict {
	return c.explain(&request{path: fullMethod, method: methodOfGRPC, md: md})
}

func (c *Chain) explain(r *request) []Verdict {
	if c.Check() != nil {
		return nil
	}
	var verdicts []Verdict
	for i := range c.matchers {
		reason := c.matchers[i].mismatch(r)
		verdicts = append(verdicts, Verdict{c.Routes[i], reason == "", reason})
		if reason == "" {
			break
		}
	}
	return verdicts
}
