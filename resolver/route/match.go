package route

// Match says which calls a route takes. The zero value matches every call.
type Match struct {
	// PathExact, PathPrefix and PathRegex are of the full method, "/package.Service/Method";
	// at most one of them is set. PathRegex is of RE2 and matches the whole path.
	PathExact  string `json:"path_exact,omitempty"`
	PathPrefix string `json:"path_prefix,omitempty"`
	PathRegex  string `json:"path_regex,omitempty"`
	// CaseInsensitive is of PathExact and PathPrefix.
	CaseInsensitive bool          `json:"case_insensitive,omitempty"`
	Headers         []HeaderMatch `json:"headers,omitempty"` // all of them
	// Methods are of HTTP; a call of gRPC is a POST. Empty matches every method.
	Methods []string `json:"methods,omitempty"`
}

// HeaderMatch matches the values of one metadata key; several are joined by commas, as HTTP
// does. At most one of Exact to Regex is set; none matches a key that is present.
type HeaderMatch struct {
	Name     string `json:"name"` // lower case
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`
	Regex    string `json:"regex,omitempty"` // of RE2, matches the whole value
	// IgnoreCase is of Exact, Prefix, Suffix and Contains.
	IgnoreCase bool `json:"ignore_case,omitempty"`
	Invert     bool `json:"invert,omitempty"` // matches where it would not
}
