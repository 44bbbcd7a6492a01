package consultest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
)

var errTokenUnknown = httpError{http.StatusForbidden, "ACL not found"}

func (s *Server) defaultPolicy() string {
	if s.aclEnabled {
		return "deny"
	}
	return "allow"
}

// tokenOf finds the token of a request in the places where Consul looks.
// https://developer.hashicorp.com/consul/api-docs/api-structure#authentication
func tokenOf(r *http.Request) string {
	if token := r.URL.Query().Get("token"); token != "" {
		return token
	}
	if token := r.Header.Get("X-Consul-Token"); token != "" {
		return token
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	token, _, _ = strings.Cut(strings.TrimSpace(token), " ")
	return token
}

// allowed reports whether the request may do everything, or nothing.
func (s *Server) allowed(r *http.Request) (bool, error) {
	token := tokenOf(r)
	switch {
	case !s.aclEnabled, token != "" && token == s.managementToken:
		return true, nil
	case token == "", s.otherTokens[token]:
		return false, nil
	default:
		return false, errTokenUnknown
	}
}

// require refuses a request whose token lacks a permission, in Consul's words.
func (s *Server) require(r *http.Request, permission, on string) error {
	allowed, err := s.allowed(r)
	if allowed || err != nil {
		return err
	}
	text := fmt.Sprintf("Permission denied: anonymous token lacks permission '%s' on %q. "+
		"The anonymous token is used implicitly when a request does not specify a token.", permission, on)
	if token := tokenOf(r); token != "" {
		text = fmt.Sprintf("Permission denied: token with AccessorID '%s' lacks permission '%s' on %q",
			uuidOf("token "+token), permission, on)
	}
	return httpError{http.StatusForbidden, text}
}

// filter reports whether a list must come back empty. If it had n items, whoever
// gave a token is told so; the anonymous are not, so that they learn nothing.
func (s *Server) filter(w http.ResponseWriter, r *http.Request, n int) bool {
	if allowed, _ := s.allowed(r); allowed {
		return false
	}
	if n > 0 && tokenOf(r) != "" {
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	return true
}

// tokenJSON is a token as its holder sees it.
type tokenJSON struct {
	AccessorID  string
	SecretID    string
	Description string
	Policies    []policyJSON `json:",omitempty"`
	Local       bool
	CreateTime  time.Time
	Hash        string
	CreateIndex uint64
	ModifyIndex uint64
}

type policyJSON struct {
	ID   string
	Name string
}

// aclTokenSelf shows the token of the request. The anonymous token cannot read itself.
func (s *Server) aclTokenSelf(w http.ResponseWriter, r *http.Request) (any, error) {
	if !s.aclEnabled {
		return nil, httpError{http.StatusUnauthorized, "ACL support disabled"}
	}
	token := tokenOf(r)
	all, err := s.allowed(r)
	if err != nil || token == "" {
		return nil, httpError{http.StatusForbidden, "token does not exist: ACL not found"}
	}
	s.writeMeta(w, r, bootIndex, queryOptions{})
	shown := tokenJSON{AccessorID: uuidOf("token " + token), SecretID: token, CreateTime: s.started.UTC(),
		Hash: base64.StdEncoding.EncodeToString([]byte(uuidOf("hash " + token))), CreateIndex: bootIndex, ModifyIndex: bootIndex}
	if all {
		shown.Description = "Initial Management Token"
		shown.Policies = []policyJSON{{"00000000-0000-0000-0000-000000000001", "global-management"}}
	}
	return shown, nil
}
