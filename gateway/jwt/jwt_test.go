package jwt_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	gojwt "github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/gateway/jwt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ edge.Verifier = (*jwt.Verifier)(nil)

// Tokens of one issuer, by the keys in a file.
func Example() {
	folder, err := os.MkdirTemp("", "keys")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	keys := filepath.Join(folder, "keys.json")
	if err := os.WriteFile(keys, document(public("k1", p256)), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := jwt.New(jwt.Config{Keys: keys, Issuer: "https://login.example/", Audience: []string{"shop"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer verifier.Close()
	fmt.Println(verifier.Verify(context.Background(), sign("ES256", "k1", p256, claims())))
	fmt.Println(verifier.Verify(context.Background(), sign("ES256", "k1", p256, claims("aud", "bank"))))
	// Output:
	// alice <nil>
	//  the token is for another audience
}

// must is for keys that are made once.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

var (
	rsaKey   = must(rsa.GenerateKey(rand.Reader, 2048))
	p256     = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	other256 = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384     = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	edKey    = ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))
)

// public is the JWK of a key's public half; options change it.
func public(id string, private crypto.Signer, change ...func(map[string]any)) map[string]any {
	key := must(jwkset.NewJWKFromKey(private.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}}))
	fields := map[string]any{}
	if err := json.Unmarshal(must(json.Marshal(key.Marshal())), &fields); err != nil {
		panic(err)
	}
	for _, c := range change {
		c(fields)
	}
	return fields
}

func field(name string, value any) func(map[string]any) {
	return func(m map[string]any) { m[name] = value }
}

func document(keys ...map[string]any) []byte {
	return must(json.Marshal(map[string]any{"keys": keys}))
}

// claims are good ones, with pairs changed; a nil value leaves one out.
func claims(pairs ...any) gojwt.MapClaims {
	all := gojwt.MapClaims{"iss": "https://login.example/", "aud": "shop", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i < len(pairs); i += 2 {
		if name := pairs[i].(string); pairs[i+1] == nil {
			delete(all, name)
		} else {
			all[name] = pairs[i+1]
		}
	}
	return all
}

func sign(algorithm, id string, key any, c gojwt.Claims, header ...any) string {
	token := gojwt.NewWithClaims(gojwt.GetSigningMethod(algorithm), c)
	if id != "" {
		token.Header["kid"] = id
	}
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	return must(token.SignedString(key))
}

// newVerifier verifies by the keys in a file.
func newVerifier(t testing.TB, keys []byte, change ...func(*jwt.Config)) *jwt.Verifier {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	config := jwt.Config{Keys: path, Issuer: "https://login.example/", Audience: []string{"shop", "till"}, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&config)
	}
	verifier, err := jwt.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	return verifier
}

// A token is valid or not, and no error repeats a part of it.
func TestTokens(t *testing.T) {
	all := document(
		public("rsa", rsaKey), public("p256", p256), public("p384", p384), public("ed", edKey),
		public("pinned", rsaKey, field("alg", "RS256")), public("enc", other256, field("use", "enc")), public("ops", other256, field("key_ops", []string{"encrypt"})),
		map[string]any{"kty": "oct", "kid": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}, map[string]any{"kty": "new", "kid": "new"})
	accepted := func(c *jwt.Config) { c.Algorithms = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} }
	verifier := newVerifier(t, all, accepted)
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rsaKey.Public()))})
	rsaJWK := must(json.Marshal(public("rsa", rsaKey)))
	good := sign("ES256", "p256", p256, claims())
	parts := strings.Split(good, ".")
	now := time.Now()
	for name, test := range map[string]struct {
		token string
		want  string // of the error
	}{
		"RS256":                    {sign("RS256", "rsa", rsaKey, claims()), ""},
		"PS256":                    {sign("PS256", "rsa", rsaKey, claims()), ""},
		"ES256":                    {good, ""},
		"ES384":                    {sign("ES384", "p384", p384, claims()), ""},
		"EdDSA":                    {sign("EdDSA", "ed", edKey, claims()), ""},
		"one of several audiences": {sign("EdDSA", "ed", edKey, claims("aud", []string{"bank", "till"})), ""},
		"without key id, one fits": {sign("EdDSA", "", edKey, claims()), ""},
		"within the leeway":        {sign("EdDSA", "ed", edKey, claims("exp", now.Add(-10*time.Second).Unix(), "nbf", now.Add(10*time.Second).Unix())), ""},

		"none":                        {sign("none", "rsa", gojwt.UnsafeAllowNoneSignatureType, claims()), "signature"},
		"none, in disguise":           {"eyJhbGciOiJOb25lIn0." + parts[1] + ".", "algorithm"},
		"HS256 by the public key":     {sign("HS256", "rsa", rsaPEM, claims()), "signature"},
		"HS256 by the public JWK":     {sign("HS256", "rsa", rsaJWK, claims()), "signature"},
		"HS256 by a symmetric key":    {sign("HS256", "oct", []byte("secretsecretsecretsecretsecret"), claims()), "signature"},
		"an algorithm not accepted":   {sign("RS512", "rsa", rsaKey, claims()), "signature"},
		"another than the key's own":  {sign("PS256", "pinned", rsaKey, claims()), "algorithm"},
		"the key of another type":     {sign("RS256", "p256", rsaKey, claims()), "algorithm"},
		"the key of another curve":    {sign("ES256", "p384", p256, claims()), "algorithm"},
		"a key that does not sign":    {sign("ES256", "enc", other256, claims()), "key"},
		"a key for something else":    {sign("ES256", "ops", other256, claims()), "key"},
		"an unknown key":              {sign("ES256", "nobody", other256, claims()), "key"},
		"signed by another":           {sign("ES256", "p256", other256, claims()), "signature"},
		"without key id, several fit": {sign("RS256", "", rsaKey, claims()), "key"},
		"key id of another type":      {sign("ES256", "", p256, claims(), "kid", 7), "malformed"},
		"another claim set":           {parts[0] + "." + strings.Split(sign("ES256", "p256", p256, claims("sub", "root")), ".")[1] + "." + parts[2], "signature"},
		"no signature":                {parts[0] + "." + parts[1] + ".", "signature"},
		"a critical header":           {sign("ES256", "p256", p256, claims(), "crit", []string{"b64"}, "b64", false), "critical"},
		"its own key":                 {sign("ES256", "", other256, claims(), "jwk", public("", other256)), ""},
		"a key elsewhere":             {sign("ES256", "evil", other256, claims(), "jku", "http://127.0.0.1:1/"), "key"},
		"expired":                     {sign("ES256", "p256", p256, claims("exp", now.Add(-time.Minute).Unix())), "expired"},
		"without end":                 {sign("ES256", "p256", p256, claims("exp", nil)), "lacks a claim"},
		"not valid yet":               {sign("ES256", "p256", p256, claims("nbf", now.Add(time.Minute).Unix())), "not valid yet"},
		"wrong audience":              {sign("ES256", "p256", p256, claims("aud", "bank")), "audience"},
		"no audience":                 {sign("ES256", "p256", p256, claims("aud", nil)), "lacks a claim"},
		"wrong issuer":                {sign("ES256", "p256", p256, claims("iss", "https://evil.example/")), "issuer"},
		"no issuer":                   {sign("ES256", "p256", p256, claims("iss", nil)), "lacks a claim"},
		"no subject":                  {sign("ES256", "p256", p256, claims("sub", nil)), "no subject"},
		"an empty subject":            {sign("ES256", "p256", p256, claims("sub", "")), "no subject"},
		"a subject that is no string": {sign("ES256", "p256", p256, claims("sub", 7)), "no subject"},
		"an end that is no number":    {sign("ES256", "p256", p256, claims("exp", "soon")), "not valid"},
		"two parts":                   {parts[0] + "." + parts[1], "malformed"},
		"five parts":                  {good + ".a.b", "malformed"},
		"junk":                        {"secretsecret", "malformed"},
		"junk in base64":              {"c2VjcmV0.c2VjcmV0.c2VjcmV0", "malformed"},
		"empty":                       {"", "malformed"},
		"padding":                     {parts[0] + "=." + parts[1] + "." + parts[2], "malformed"},
		"long":                        {good + strings.Repeat("a", 8192), "8 KiB"},
	} {
		subject, err := verifier.Verify(t.Context(), test.token)
		switch {
		case name == "its own key":
			if err == nil {
				t.Errorf("%s: a token is verified by the key that it brings", name)
			}
		case test.want == "" && (subject != "alice" || err != nil):
			t.Errorf("%s: %q, %v", name, subject, err)
		case test.want != "" && (subject != "" || err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %q, %v, want %q in it", name, subject, err, test.want)
		}
		if err != nil {
			for _, part := range append(strings.Split(test.token, "."), "alice", "evil", "bank", "nobody", "secret") {
				if len(part) > 3 && strings.Contains(err.Error(), part) {
					t.Errorf("%s: the error repeats %q: %v", name, part, err)
				}
			}
			if temporary := (interface{ Temporary() bool })(nil); errors.As(err, &temporary) {
				t.Errorf("%s: %v is temporary", name, err)
			}
		}
	}
}

// The subject may be in another claim.
func TestTheSubjectsClaim(t *testing.T) {
	verifier := newVerifier(t, document(public("k", p256)), func(c *jwt.Config) { c.SubjectClaim = "email"; c.Leeway = -1 })
	subject, err := verifier.Verify(t.Context(), sign("ES256", "k", p256, claims("email", "a@b.example")))
	if subject != "a@b.example" || err != nil {
		t.Errorf("%q, %v", subject, err)
	}
	if _, err := verifier.Verify(t.Context(), sign("ES256", "k", p256, claims())); err == nil {
		t.Error("without the claim it is valid")
	}
	if _, err := verifier.Verify(t.Context(), sign("ES256", "k", p256, claims("email", "a@b.example", "exp", time.Now().Add(-2*time.Second).Unix()))); err == nil {
		t.Error("without leeway it is valid after its end")
	}
}

// Wrong fields are refused by name.
func TestMistakes(t *testing.T) {
	good := func() jwt.Config {
		return jwt.Config{Keys: "https://login.example/keys", Issuer: "i", Audience: []string{"a"}}
	}
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for want, change := range map[string]func(*jwt.Config){
		"Keys: name":          func(c *jwt.Config) { c.Keys = "" },
		"must begin":          func(c *jwt.Config) { c.Keys = "http://login.example/keys" },
		"Keys: the URL":       func(c *jwt.Config) { c.Keys = "ftp://127.0.0.1/keys" },
		"no user in it":       func(c *jwt.Config) { c.Keys = "https://u:secret@login.example/keys" },
		"no such file":        func(c *jwt.Config) { c.Keys = filepath.Join(t.TempDir(), "absent") },
		"no JSON web key set": func(c *jwt.Config) { c.Keys = file("hello") },
		"no public key":       func(c *jwt.Config) { c.Keys = file(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`) },
		"more than 1048576":   func(c *jwt.Config) { c.Keys = file(strings.Repeat(" ", 1<<20+1)) },
		"want 256 at most":    func(c *jwt.Config) { c.Keys = file(`{"keys":[` + strings.Repeat(`{"kty":"oct"},`, 256) + `{}]}`) },
		"Issuer":              func(c *jwt.Config) { c.Issuer = "" },
		"Audience":            func(c *jwt.Config) { c.Audience = nil },
		`Algorithms: "none"`:  func(c *jwt.Config) { c.Algorithms = []string{"none"} },
		`Algorithms: "HS256"`: func(c *jwt.Config) { c.Algorithms = []string{"RS256", "HS256"} },
		"Leeway":              func(c *jwt.Config) { c.Leeway = time.Hour },
		"MinRefresh: 1h":      func(c *jwt.Config) { c.MinRefresh = time.Hour },
		"Refresh: -1s":        func(c *jwt.Config) { c.Refresh = -time.Second },
	} {
		config := good()
		change(&config)
		if v, err := jwt.New(config); err == nil || v != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// login serves keys, or fails. It needs no socket.
type login struct {
	mu    sync.Mutex
	keys  []byte
	fails error
	asked atomic.Int32
}

func (l *login) RoundTrip(r *http.Request) (*http.Response, error) {
	l.asked.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails != nil {
		return nil, l.fails
	}
	w := httptest.NewRecorder()
	_, _ = w.Write(l.keys)
	return w.Result(), nil
}

func (l *login) set(keys []byte, fails error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys, l.fails = keys, fails
}

func (l *login) verifier(t testing.TB, log *bytes.Buffer) *jwt.Verifier {
	t.Helper()
	verifier, err := jwt.New(jwt.Config{
		Keys: "https://login.example/keys", Issuer: "https://login.example/", Audience: []string{"shop"},
		Client: &http.Client{Transport: l}, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// A new key is known as soon as a token shows it, and whatever tokens come, keys are read at
// most once in 30 s.
func TestKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := &login{keys: document(public("old", p256))}
		verifier := l.verifier(t, &log)
		verify := func(id string, key any) error {
			_, err := verifier.Verify(t.Context(), sign("ES256", id, key, claims("exp", time.Now().Add(24*time.Hour).Unix())))
			return err
		}
		if err := verify("old", p256); err != nil { // waits for the first reading
			t.Error(err)
		}
		l.set(document(public("old", p256), public("new", other256)), nil)
		if err := verify("new", other256); err == nil {
			t.Error("keys are read again at once after a reading")
		}
		time.Sleep(30 * time.Second)
		var many sync.WaitGroup
		for range 100 {
			many.Go(func() {
				if err := verify("new", other256); err != nil {
					t.Error(err)
				}
			})
		}
		many.Wait()
		for i := range 1000 {
			if err := verify(fmt.Sprint(i), other256); err == nil {
				t.Error("an unknown key is valid")
			}
			time.Sleep(time.Second)
		}
		// One at the start, one for the new key, one each 30 s for the unknown ones.
		if n := l.asked.Load(); n > 2+1000/30+1 {
			t.Errorf("the keys were read %d times in 1,030 s", n)
		}
		l.set(document(public("new", other256)), nil)
		time.Sleep(11 * time.Minute)
		if err := verify("old", p256); err == nil {
			t.Error("a key that was withdrawn is valid after a refresh")
		}
		verifier.Close()
		if err := verify("new", other256); err != nil {
			t.Errorf("after Close: %v", err)
		}
		if err := verify("newer", other256); err == nil {
			t.Error("after Close an unknown key is valid")
		}
	})
}

// While the keys cannot be read, or what is read has none, the last good ones stay in use;
// without any, tokens are not refused for good.
func TestTheKeyServerIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := &login{fails: errors.New("connection refused")}
		verifier := l.verifier(t, &log)
		defer verifier.Close()
		verify := func() error {
			_, err := verifier.Verify(t.Context(), sign("ES256", "k", p256, claims("exp", time.Now().Add(48*time.Hour).Unix())))
			return err
		}
		for range 3 {
			err := verify()
			if temporary := (interface{ Temporary() bool })(nil); !errors.As(err, &temporary) || !temporary.Temporary() {
				t.Errorf("%v, want an error that is temporary", err)
			}
			time.Sleep(10 * time.Second)
		}
		l.set(document(public("k", p256)), nil)
		time.Sleep(30 * time.Second)
		if err := verify(); err != nil {
			t.Error(err)
		}
		for _, keys := range [][]byte{nil, []byte("<html>"), []byte(`{"keys":[]}`)} {
			fails := errors.New("timeout")
			if keys != nil {
				fails = nil
			}
			l.set(keys, fails)
			time.Sleep(24 * time.Hour / 4)
			if err := verify(); err != nil {
				t.Errorf("with %q: %v", keys, err)
			}
		}
		before := l.asked.Load()
		time.Sleep(time.Minute)
		if n := l.asked.Load() - before; n > 3 {
			t.Errorf("%d attempts in a minute", n)
		}
		verifier.Close()
		if n := strings.Count(log.String(), "cannot be read"); n != 2 {
			t.Errorf("%d warnings in\n%s", n, log.String())
		}
	})
}

// A caller who leaves does not wait for keys.
func TestACallerWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := hanging{}
		verifier, err := jwt.New(jwt.Config{Keys: "https://login.example/keys", Issuer: "i", Audience: []string{"a"},
			Client: &http.Client{Transport: hangs}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := verifier.Verify(ctx, sign("ES256", "k", p256, claims())); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		verifier.Close()
	})
}

type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A server on loopback is read over HTTP, with no redirect to where others could answer.
func TestKeysOverHTTP(t *testing.T) {
	var redirect atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if redirect.Load() {
			http.Redirect(w, r, "http://login.example/", http.StatusFound)
			return
		}
		_, _ = w.Write(document(public("k", edKey)))
	}))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for _, away := range []bool{false, true} {
		redirect.Store(away)
		verifier, err := jwt.New(jwt.Config{Keys: server.URL, Issuer: "https://login.example/", Audience: []string{"shop"}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = verifier.Verify(t.Context(), sign("EdDSA", "k", edKey, claims()))
		if (err != nil) != away {
			t.Errorf("redirected %v: %v", away, err)
		}
		verifier.Close()
	}
}

// A small RSA key signs nothing.
func TestWeakKeysAreIgnored(t *testing.T) {
	small := document(public("weak", p256), map[string]any{"kty": "RSA", "kid": "small", "e": "AQAB", "n": strings.Repeat("q", 171)})
	verifier := newVerifier(t, small)
	if _, err := verifier.Verify(t.Context(), sign("RS256", "small", rsaKey, claims())); err == nil || !strings.Contains(err.Error(), "key is not known") {
		t.Errorf("%v", err)
	}
}

// Whatever a token is, verifying it neither panics nor repeats it.
func FuzzVerify(f *testing.F) {
	verifier := newVerifier(f, document(public("p256", p256), public("rsa", rsaKey)))
	for _, token := range []string{"", "..", sign("ES256", "p256", p256, claims()), sign("RS256", "rsa", rsaKey, claims("aud", nil))} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		subject, err := verifier.Verify(t.Context(), token)
		if (err == nil) != (subject != "") {
			t.Errorf("%q, %v", subject, err)
		}
		if err != nil && len(token) > 40 && strings.Contains(err.Error(), token) {
			t.Errorf("%v repeats the token", err)
		}
	})
}
