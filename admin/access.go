package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/meshlite-go/meshlite/caller"
)

const (
	minToken     = 32 // bytes
	maxTokenFile = 4 << 10
)

// access decides who may see more than metrics and health. As long as nothing is set that is
// loopback. A proxy on this machine may look so without a mark, so what is set is demanded of
// loopback, too.
type access struct {
	token, tokenFile *string // at most one is not nil
	identities       map[string]bool
	openLoopback     bool
}

// WithToken lets requests in that have token, of at least 32 bytes, as a bearer token, from
// any address, and no others, unless [WithIdentities] or [WithOpenLoopback] does. It replaces
// [WithTokenFile].
func WithToken(token string) Option {
	return func(c *config) { c.access.token, c.access.tokenFile = &token, nil }
}

// WithTokenFile is [WithToken] with the tokens of a file, one a line. It is read for each
// request, so a token rotates by a file that has the new and the old one for a while. A file
// that cannot be read lets nobody in. It replaces [WithToken].
func WithTokenFile(path string) Option {
	return func(c *config) { c.access.token, c.access.tokenFile = nil, &path }
}

// WithIdentities lets requests in whose verified client certificate has one of these SPIFFE
// ids, exactly. The handler is then to be served by TLS with a ClientAuth that verifies.
func WithIdentities(ids ...string) Option {
	return func(c *config) {
		for _, id := range ids {
			c.access.identities[id] = true
		}
	}
}

// WithOpenLoopback lets requests of this machine itself in, whatever else is demanded by
// [WithToken], [WithTokenFile] or [WithIdentities]: a proxy on it that leaves no mark, such as
// NGINX without X-Forwarded-For, then opens the pages to its callers.
func WithOpenLoopback() Option {
	return func(c *config) { c.access.openLoopback = true }
}

// isRestricted reports whether something is demanded.
func (a *access) isRestricted() bool {
	return a.token != nil || a.tokenFile != nil || len(a.identities) > 0
}

func (a *access) check() error {
	for id := range a.identities {
		rest, ok := strings.CutPrefix(id, "spiffe://")
		domain, path, _ := strings.Cut(rest, "/")
		if !ok || domain == "" || path == "" || strings.Contains(id, "*") {
			return fmt.Errorf("admin: the identity %q (WithIdentities, MESHLITE_ADMIN_IDENTITIES): write a SPIFFE id, such as spiffe://example.consul/ns/default/dc/dc1/svc/operator", id)
		}
	}
	_, err := a.tokens()
	return err
}

// tokens are those that are valid now, none if there is no option for them.
func (a *access) tokens() ([]string, error) {
	switch {
	case a.token != nil:
		if err := checkToken(*a.token); err != nil {
			return nil, fmt.Errorf("admin: the token (WithToken, MESHLITE_ADMIN_TOKEN) %w", err)
		}
		return []string{*a.token}, nil
	case a.tokenFile != nil:
		tokens, err := readTokens(*a.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("admin: the token file (WithTokenFile, MESHLITE_ADMIN_TOKEN_FILE) %q: %w", *a.tokenFile, err)
		}
		return tokens, nil
	default:
		return nil, nil
	}
}

func readTokens(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the path is named already
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFile+1))
	switch {
	case err != nil:
		return nil, errors.Unwrap(err)
	case len(text) > maxTokenFile:
		return nil, fmt.Errorf("it has more than %d bytes: write a token a line", maxTokenFile)
	}
	tokens := strings.Fields(string(text))
	if len(tokens) == 0 {
		return nil, errors.New("it is empty: write a token into it, such as that of `openssl rand -hex 32`")
	}
	for i, token := range tokens {
		if err := checkToken(token); err != nil {
			return nil, fmt.Errorf("token %d %w", i+1, err)
		}
	}
	return tokens, nil
}

// checkToken does not show the token in its error.
func checkToken(token string) error {
	const fix = "take that of `openssl rand -hex 32`"
	if len(token) < minToken {
		return fmt.Errorf("has %d bytes: %d are the least: %s", len(token), minToken, fix)
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return errors.New("has a space or a byte that is not ASCII: " + fix)
		}
	}
	return nil
}

// refuse returns the status and the reason for a request that may not see a page.
func (a *access) refuse(r *http.Request) (code int, reason string) {
	if (a.openLoopback || !a.isRestricted()) && local(r) {
		return 0, ""
	}
	identity, verified := caller.VerifiedTLS(r.TLS)
	if verified && a.identities[identity] {
		return 0, ""
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch closed := a.token == nil && a.tokenFile == nil; {
	case !a.isRestricted():
		return http.StatusForbidden, "only loopback sees this page, and not through a proxy: for others set MESHLITE_ADMIN_TOKEN, MESHLITE_ADMIN_TOKEN_FILE or MESHLITE_ADMIN_IDENTITIES where the program runs, or admin.WithToken, admin.WithTokenFile or admin.WithIdentities"
	case closed && verified:
		return http.StatusForbidden, "the identity of the certificate is not one of the program's MESHLITE_ADMIN_IDENTITIES or admin.WithIdentities"
	case closed:
		return http.StatusUnauthorized, "call by https with the client certificate of one of the program's MESHLITE_ADMIN_IDENTITIES or admin.WithIdentities, such as that of --identity for the command meshlite"
	case !strings.EqualFold(scheme, "Bearer"):
		return http.StatusUnauthorized, "write the header Authorization: Bearer TOKEN, or set MESHLITE_ADMIN_TOKEN for the command meshlite"
	}
	tokens, err := a.tokens()
	if err != nil {
		return http.StatusForbidden, "the program cannot read its token: check its MESHLITE_ADMIN_TOKEN_FILE or admin.WithTokenFile"
	}
	if !anyEqual(tokens, strings.TrimSpace(given)) {
		return http.StatusForbidden, "wrong token: write that of the program's MESHLITE_ADMIN_TOKEN or MESHLITE_ADMIN_TOKEN_FILE"
	}
	return 0, ""
}

// anyEqual compares in a time that depends on no byte of tokens, nor on their lengths.
func anyEqual(tokens []string, given string) bool {
	sum, equal := sha256.Sum256([]byte(given)), 0
	for _, token := range tokens {
		want := sha256.Sum256([]byte(token))
		equal |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return equal == 1
}

// local reports whether a request is of this machine itself: over a Unix socket, or from
// loopback to loopback by a name of loopback. A proxy on this machine makes others look so:
// what has its marks is not local. Without addresses nothing is.
func local(r *http.Request) bool {
	switch at := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.UnixAddr:
		return !proxied(r)
	case *net.TCPAddr:
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		return err == nil && from.Addr().Unmap().IsLoopback() && at.IP.IsLoopback() && loopbackName(r.Host) && !proxied(r)
	default:
		return false
	}
}

func loopbackName(host string) bool {
	name := hostKey(host)
	address, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && address.Unmap().IsLoopback()
}

// proxied reports whether a request has the marks of a proxy. NGINX adds no header by
// itself; before 1.29.7 it speaks HTTP/1.0, later ones have no mark.
func proxied(r *http.Request) bool {
	if !r.ProtoAtLeast(1, 1) {
		return true
	}
	for key := range r.Header {
		switch {
		case key == "Forwarded", key == "Via", key == "X-Real-Ip", key == "X-Client-Ip", key == "True-Client-Ip", key == "Cf-Connecting-Ip",
			strings.HasPrefix(key, "X-Forwarded-"), strings.HasPrefix(key, "X-Envoy-"):
			return true
		}
	}
	return false
}
