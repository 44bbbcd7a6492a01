// Package jwt verifies JSON web tokens (RFC 7519) by keys from a file or a URL (JWKS, RFC
// 7517). It is a Verifier of package edge.
//
//	verifier, err := jwt.New(jwt.Config{
//		Keys:     "https://login.example/.well-known/jwks.json",
//		Issuer:   "https://login.example/",
//		Audience: []string{"https://api.example"},
//	})
//	defer verifier.Close()
//	subject, err := verifier.Verify(ctx, token)
//
// Only signatures by asymmetric keys are valid: a key that is public cannot sign. The
// algorithm of a token must be allowed, fit the type and the curve of its key, and be the
// key's own if that names one (RFC 8725). A token needs exp, iss, aud and a subject.
//
// Keys are read again every [Config.Refresh], and at once for a token whose key is not known,
// at most once in [Config.MinRefresh] whatever tokens come. While they cannot be read, or what
// is read has no key, the last good ones stay in use and a warning is logged.
//
// No error repeats a part of a token.
package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
)

const (
	maxToken       = 8 << 10
	maxLeeway      = 5 * time.Minute
	defaultLeeway  = 30 * time.Second
	defaultRefresh = 10 * time.Minute
	defaultMin     = 30 * time.Second
)

// algorithms are those that may be allowed: all with asymmetric keys.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Config is what a [Verifier] accepts.
type Config struct {
	// Keys is the path of a file, or a URL: https, or http on a loopback address.
	Keys string
	// Issuer is what iss must be.
	Issuer string
	// Audience are those of which aud must have one.
	Audience []string
	// Algorithms are those that are accepted: RS, PS and ES with 256, 384 or 512, and EdDSA.
	// Default: RS256, PS256, ES256, EdDSA.
	Algorithms []string
	// SubjectClaim names the claim with the subject, a string. Default: sub.
	SubjectClaim string
	// Leeway is by how much clocks may differ, for exp and nbf, at most 5 minutes. Default: 30 s.
	// Negative is none.
	Leeway time.Duration
	// Refresh is how often the keys are read again. Default: 10 minutes.
	Refresh time.Duration
	// MinRefresh is the least time between two readings. Default: 30 s.
	MinRefresh time.Duration
	// Client reads a URL. Default: one with a timeout of 5 s that follows redirects to https only.
	Client *http.Client
	// Logger warns of keys that cannot be read. Default: slog.Default().
	Logger *slog.Logger
}

// Verifier verifies tokens. It is safe for concurrent use. Its owner closes it.
type Verifier struct {
	config Config
	parser *gojwt.Parser
	keys   atomic.Pointer[keySet] // nil before the first good reading

	mu       sync.Mutex
	reading  chan struct{} // closed when the reading that is under way, or asked for, is over
	triedAt  time.Time     // of the last reading
	wanted   chan struct{} // asks for one
	closing  context.Context
	close    context.CancelFunc
	finished chan struct{}
}

// New checks config, and reads the keys if they are in a file. Those of a URL are read by and
// by, so that a server that is down ends no start: until then [Verifier.Verify] fails with an
// error that is temporary.
func New(config Config) (*Verifier, error) {
	if err := config.finish(); err != nil {
		return nil, fmt.Errorf("jwt: %w", err)
	}
	v := &Verifier{
		config: config,
		parser: gojwt.NewParser(
			gojwt.WithValidMethods(config.Algorithms), gojwt.WithIssuer(config.Issuer), gojwt.WithAudience(config.Audience...),
			gojwt.WithExpirationRequired(), gojwt.WithLeeway(config.Leeway), gojwt.WithStrictDecoding()),
		wanted: make(chan struct{}, 1), finished: make(chan struct{}),
	}
	v.closing, v.close = context.WithCancel(context.Background())
	if !isURL(config.Keys) {
		keys, err := v.read()
		if err != nil {
			v.close()
			return nil, fmt.Errorf("jwt: Keys: %w", err)
		}
		v.keys.Store(keys)
		v.triedAt = time.Now()
	}
	go v.follow()
	return v, nil
}

// Close ends the reading of keys. Tokens are still verified by those that were read.
func (v *Verifier) Close() {
	v.close()
	<-v.finished
}

func (c *Config) finish() error {
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	}
	if c.SubjectClaim == "" {
		c.SubjectClaim = "sub"
	}
	if c.Leeway == 0 {
		c.Leeway = defaultLeeway
	}
	c.Leeway = max(c.Leeway, 0)
	if c.Refresh == 0 {
		c.Refresh = defaultRefresh
	}
	if c.MinRefresh == 0 {
		c.MinRefresh = min(defaultMin, c.Refresh)
	}
	if c.Client == nil {
		c.Client = &http.Client{Timeout: readTimeout, CheckRedirect: onlySecure}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case c.Keys == "":
		return wrong("Keys", "name a file or a URL")
	case c.Issuer == "":
		return wrong("Issuer", "name the one whose tokens are accepted")
	case len(c.Audience) == 0 || slices.Contains(c.Audience, ""):
		return wrong("Audience", "name those that tokens must be for: others' tokens would be accepted without it")
	case c.Leeway > maxLeeway:
		return wrong("Leeway", "%v: write %v at most", c.Leeway, maxLeeway)
	case c.Refresh < c.MinRefresh || c.MinRefresh <= 0:
		return wrong("Refresh", "%v, MinRefresh: %v: write durations above 0, MinRefresh the shorter one", c.Refresh, c.MinRefresh)
	}
	for _, algorithm := range c.Algorithms {
		if !slices.Contains(algorithms, algorithm) {
			return wrong("Algorithms", "%q: write some of %s", algorithm, strings.Join(algorithms, ", "))
		}
	}
	if isURL(c.Keys) {
		u, err := url.Parse(c.Keys)
		if err != nil || u.Host == "" || u.User != nil || !secure(u) {
			return wrong("Keys", "the URL must begin with https://, or with http:// and a loopback address, and have no user in it")
		}
	}
	return nil
}

// wrong is the error of a field.
func wrong(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w", field, fmt.Errorf(format, args...))
}

func isURL(keys string) bool { return strings.Contains(keys, "://") }

// secure reports whether nobody can change what is read from u.
func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

func onlySecure(r *http.Request, via []*http.Request) error {
	if len(via) >= 3 {
		return errors.New("more than 3 redirects")
	}
	if !secure(r.URL) {
		return errors.New("a redirect to another scheme than https")
	}
	return nil
}

// unavailable is an error of tokens that cannot be verified now. Package edge answers 503.
type unavailable struct{ error }

// Temporary reports that the token may be valid.
func (unavailable) Temporary() bool { return true }

// The errors of tokens, which are shown to callers.
var (
	errTooLong   = errors.New("the token is longer than 8 KiB")
	errMalformed = errors.New("the token is malformed")
	errAlgorithm = errors.New("the token's algorithm is not accepted, or does not fit its key")
	errCritical  = errors.New("the token has a critical header, which is not supported")
	errKey       = errors.New("the token's key is not known")
	errSignature = errors.New("the token's signature is not valid")
	errExpired   = errors.New("the token has expired")
	errEarly     = errors.New("the token is not valid yet")
	errIssuer    = errors.New("the token is of another issuer")
	errAudience  = errors.New("the token is for another audience")
	errClaim     = errors.New("the token lacks a claim: it needs exp, iss and aud")
	errSubject   = errors.New("the token has no subject")
	errInvalid   = errors.New("the token is not valid")
	errNoKeys    = unavailable{errors.New("tokens cannot be verified now: there are no keys yet")}
)

// Verify returns the subject of token, which is never "". Its error says what is wrong with
// the token and repeats nothing of it; one with Temporary() true says that keys are missing.
// For a key that is not known it waits for a reading of the keys, unless ctx ends before.
func (v *Verifier) Verify(ctx context.Context, token string) (subject string, err error) {
	if len(token) > maxToken {
		return "", errTooLong
	}
	claims := gojwt.MapClaims{}
	_, err = v.parser.ParseWithClaims(token, claims, func(t *gojwt.Token) (any, error) { return v.key(ctx, t) })
	if err != nil {
		return "", plain(err)
	}
	if subject, _ = claims[v.config.SubjectClaim].(string); subject == "" {
		return "", errSubject
	}
	return subject, nil
}

// plain is the error of ours for one of the parser's, which may repeat parts of the token.
func plain(err error) error {
	for _, own := range []error{errNoKeys, errKey, errAlgorithm, errCritical, errMalformed} {
		if errors.Is(err, own) {
			return own
		}
	}
	for _, pair := range []struct{ theirs, own error }{
		{gojwt.ErrTokenMalformed, errMalformed},
		{gojwt.ErrTokenSignatureInvalid, errSignature},
		{gojwt.ErrTokenUnverifiable, errAlgorithm},
		{gojwt.ErrTokenRequiredClaimMissing, errClaim},
		{gojwt.ErrTokenExpired, errExpired},
		{gojwt.ErrTokenNotValidYet, errEarly},
		{gojwt.ErrTokenInvalidIssuer, errIssuer},
		{gojwt.ErrTokenInvalidAudience, errAudience},
	} {
		if errors.Is(err, pair.theirs) {
			return pair.own
		}
	}
	return errInvalid
}

// key is the one that signed the token, by what its header says.
func (v *Verifier) key(ctx context.Context, token *gojwt.Token) (any, error) {
	if _, critical := token.Header["crit"]; critical {
		return nil, errCritical
	}
	id, named := "", false
	if value, ok := token.Header["kid"]; ok {
		if id, named = value.(string); !named {
			return nil, errMalformed
		}
	}
	keys := v.keys.Load()
	found, err := keys.find(id, named, token.Method.Alg())
	if (errors.Is(err, errKey) || errors.Is(err, errNoKeys)) && v.await(ctx, keys) {
		found, err = v.keys.Load().find(id, named, token.Method.Alg())
	}
	return found, err
}

// fits reports whether a key may verify signatures of algorithm.
func fits(public any, algorithm string) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[key.Curve.Params().Name]
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	default:
		return false
	}
}
