package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// schemeKey is the metadata of instances that speak HTTP, as `meshlite gateway` registers itself.
const schemeKey = "scheme"

func isHTTP(scheme string) bool { return scheme == "http" || scheme == "https" }

// maxReason is how much is shown of why an instance is not ready, in bytes.
const maxReason = 200

// probeHTTP asks an HTTP service whether it is ready. One that answers something else than
// success or 503 has no /readyz, and counts as ready.
func probeHTTP(ctx context.Context, scheme, address string) probeResult {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+"/readyz", nil)
	if err != nil {
		return probeResult{uncallable, "cannot be called: " + err.Error(), "is its address right?"}
	}
	// Only whether it is ready is asked. Who it is is for its callers to verify.
	transport := &http.Transport{
		DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	begin := time.Now()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return probeResult{uncallable, "does not answer " + strings.ToUpper(scheme) + ": " + err.Error(), "does it speak " + scheme + ", as its metadata says? See its log."}
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusServiceUnavailable:
		reason, _ := io.ReadAll(io.LimitReader(response.Body, maxReason))
		return probeResult{notServing, fmt.Sprintf("is not ready: %q", strings.TrimSpace(string(reason))), "see its log: it may be starting or draining, or its own check fails"}
	case response.StatusCode/100 == 2:
		return probeResult{state: serving, text: fmt.Sprintf("ready in %s", time.Since(begin).Round(10*time.Microsecond))}
	default:
		return probeResult{state: serving, text: fmt.Sprintf("answers HTTP, and /readyz with %d", response.StatusCode)}
	}
}
