package transcode

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// isIdentified reports whether the caller is somebody. A shared cache in front of us must not
// store what somebody is answered (RFC 9111, 3.5).
func isIdentified(md metadata.MD, r *http.Request) bool {
	return len(r.Header["Authorization"]) > 0 || len(md[wire.SubjectKey]) > 0 || len(md["authorization"]) > 0
}

// isStored publishes for how long and for whom the answer may be stored, and reports whether
// the caller has it already. The ETag is that of body, so an answer that a cache of the channel
// has served is confirmed without a call. An answer to POST publishes nothing: its URL does not
// name it, and a cache could use it for a GET of that URL (RFC 9110, 9.3.3).
func isStored(header http.Header, r *http.Request, got answer, body []byte) bool {
	if !isGet(r) {
		return false
	}
	policy := got.method.policy()
	said := cachecontrol.Parse(got.header["cache-control"])
	if said.Has(cachecontrol.NoStore) {
		header.Set("Cache-Control", "no-store")
		return false
	}
	etag := got.etag
	if etag == nil {
		etag = []string{etagOf(body)}
	}
	header["Etag"] = etag
	setCacheControl(header, got, policy, policy.TTL, said)
	return matchesETag(r.Header["If-None-Match"], etag[0])
}

// isGet reports whether the URL alone names the answer.
func isGet(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// setNegativeCache publishes for how long a failure may be stored: not at all, unless the
// policy lists its code.
func setNegativeCache(header http.Header, r *http.Request, got answer, code codes.Code) {
	header.Set("Cache-Control", "no-store")
	if !isGet(r) {
		return
	}
	policy := got.method.policy()
	said := cachecontrol.Parse(got.header["cache-control"])
	if ttl := policy.Negative[code]; ttl > 0 && !said.Has(cachecontrol.NoStore) {
		setCacheControl(header, got, policy, ttl, said)
	}
}

// setCacheControl writes Cache-Control, Age and Vary. The origin's own directives shorten what
// the policy allows, and never extend it.
func setCacheControl(header http.Header, got answer, policy CachePolicy, ttl time.Duration, said cachecontrol.Directives) {
	if age, ok := said.Seconds(cachecontrol.MaxAge); ok {
		ttl = min(ttl, age)
	}
	scope, uncached := "private", privateUncached
	if policy.Public && !got.identified && !said.Has(cachecontrol.Private) {
		scope, uncached = "public", publicUncached
		if age, ok := said.Seconds(cachecontrol.SharedMaxAge); ok {
			ttl = min(ttl, age)
		}
	}
	switch {
	case ttl < time.Second || said.Has(cachecontrol.NoCache):
		header["Cache-Control"] = uncached
	case said.Has(cachecontrol.MustRevalidate):
		header["Cache-Control"] = []string{scope + ", max-age=" + seconds(ttl) + ", must-revalidate"}
	default:
		header["Cache-Control"] = []string{scope + ", max-age=" + seconds(ttl)}
	}
	if got.rendered {
		header["Age"] = []string{seconds(got.age)}
	} else if ages := got.header["age"]; len(ages) > 0 {
		if age, ok := cachecontrol.ParseSeconds(ages[0]); ok {
			header.Set("Age", seconds(age))
		}
	}
	setVary(header, got, policy)
}

// Values of headers that most answers have, which nobody changes.
var (
	privateUncached = []string{"private, no-cache"}
	publicUncached  = []string{"public, no-cache"}
)

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// setVary lists what the answer depends on. The caller is part of a private answer, and of
// whether an answer is public.
func setVary(header http.Header, got answer, policy CachePolicy) {
	if len(policy.Vary)+len(got.header["vary"]) == 0 {
		header["Vary"] = append(header["Vary"], "Authorization")
		return
	}
	names := []string{"Authorization"}
	for _, key := range policy.Vary {
		names = append(names, http.CanonicalHeaderKey(key))
	}
	for _, line := range got.header["vary"] {
		for key := range strings.SplitSeq(line, ",") {
			if key = strings.TrimSpace(key); token.MatchString(key) && !strings.HasPrefix(strings.ToLower(key), "grpc-") {
				names = append(names, http.CanonicalHeaderKey(key))
			}
		}
	}
	slices.Sort(names)
	header.Add("Vary", strings.Join(slices.Compact(names), ", "))
}

// etagOf is strong: equal for equal bytes, in every process.
func etagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}

// matchesETag compares weakly (RFC 9110, 13.1.2), since compression on the way weakens a tag.
func matchesETag(ifNoneMatch []string, etag string) bool {
	for _, line := range ifNoneMatch {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item)
			if item == "*" || strings.TrimPrefix(item, "W/") == etag {
				return true
			}
		}
	}
	return false
}
