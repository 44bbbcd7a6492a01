package edge

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/internal/httpform"
)

// hopByHop are headers of one connection (RFC 9110, 7.6.1, and what was used before).
var hopByHop = []string{"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

// ours are headers that the gateway sets, or gRPC does.
var ours = []string{
	caller.SubjectKey, "x-forwarded-for", "traceparent", "tracestate", "baggage", "host", "content-length",
	"content-type", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-message-type", "grpc-message", "grpc-status", "grpc-status-details-bin",
}

// maxForwarded bounds the metadata that a caller can write, as HTTP/2 counts it: servers of this
// module take 16 KiB in all, and a call with more is INTERNAL. What a trace has must fit, too, or
// is left out; W3C has others pass on 8 KiB.
const (
	maxForwarded = 12 << 10
	maxTrace     = 8 << 10
	perField     = 32
)

func (e *Edge) setHeaders() error {
	for _, name := range e.config.Headers {
		key := strings.ToLower(name)
		switch {
		case !caller.ValidKey(key):
			return wrong("Headers", "%q is no metadata key: write letters, digits and _-. only", name)
		case slices.Contains(hopByHop, key):
			return wrong("Headers", "%q is a header of one connection and is never passed on", name)
		case slices.Contains(ours, key):
			return wrong("Headers", "%q is set by the gateway: leave it out", name)
		case !slices.Contains(e.headers, key):
			e.headers = append(e.headers, key)
		}
	}
	return nil
}

// Metadata is what a gRPC backend gets of r, a request below [Edge.Handler]: the subject
// ([caller.SubjectKey]) and the address (x-forwarded-for) of its caller, its trace
// (traceparent, tracestate, baggage) and the headers in [Config.Headers]. Nothing else of what
// comes from outside is in it.
//
// x-forwarded-for has the one address that was found behind trusted proxies, so that backends
// need to trust the gateway only. Bytes of a subject that metadata cannot carry, and %, are
// percent-encoded.
func (e *Edge) Metadata(r *http.Request) metadata.MD {
	md := metadata.MD{}
	who := CallerOf(r.Context())
	if who.Subject != "" {
		md[caller.SubjectKey] = []string{metadataText(who.Subject)}
	}
	if who.Address.IsValid() {
		md["x-forwarded-for"] = []string{who.Address.String()}
	}
	setTrace(md, r.Header, maxForwarded-e.forwardedBytes(r.Header))
	if len(e.headers) == 0 {
		return md
	}
	hop := connectionHeaders(r.Header)
	for _, key := range e.headers {
		if slices.Contains(hop, key) {
			continue
		}
		for _, value := range r.Header[http.CanonicalHeaderKey(key)] {
			if strings.HasSuffix(key, "-bin") {
				decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
				if err != nil {
					continue
				}
				value = string(decoded)
			} else if !printable(value) {
				continue
			}
			md.Append(key, value)
		}
	}
	return md
}

// forwardedBytes is the size of the headers that are passed on by name.
func (e *Edge) forwardedBytes(header http.Header) (n int) {
	for _, key := range e.headers {
		for _, value := range header[http.CanonicalHeaderKey(key)] {
			n += len(key) + len(value) + perField
		}
	}
	return n
}

// connectionHeaders are those that a request's Connection header names, in lower case.
func connectionHeaders(header http.Header) (names []string) {
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			names = append(names, strings.ToLower(strings.TrimSpace(name)))
		}
	}
	return names
}

// setTrace passes on the trace context of W3C, if it is one, in left bytes.
func setTrace(md metadata.MD, header http.Header, left int) {
	set := func(key, value string) {
		size := len(key) + len(value) + perField
		if value != "" && len(value) <= maxTrace && size <= left && printable(value) {
			md[key] = []string{value}
			left -= size
		}
	}
	if parents := header["Traceparent"]; len(parents) == 1 && isTraceparent(parents[0]) {
		set("traceparent", parents[0])
		set("tracestate", strings.Join(header["Tracestate"], ","))
	}
	set("baggage", strings.Join(header["Baggage"], ","))
}

// isTraceparent is lenient about what later versions append, as W3C asks for.
func isTraceparent(text string) bool {
	const form = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(text) < len(form) || len(text) > 256 || len(text) > len(form) && (text[:2] == "00" || text[len(form)] != '-') || !printable(text) {
		return false
	}
	for i := range form {
		hex := text[i] >= '0' && text[i] <= '9' || text[i] >= 'a' && text[i] <= 'f'
		if form[i] == '-' && text[i] != '-' || form[i] == '0' && !hex {
			return false
		}
	}
	return text[:2] != "ff"
}

// printable reports whether gRPC can send text as metadata.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// metadataText is subject in bytes that metadata can carry. Different subjects stay different.
func metadataText(subject string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(subject) {
		c := subject[i]
		outer := c == ' ' && (i == 0 || i == len(subject)-1) // which HTTP would trim
		if c < ' ' || c > '~' || c == '%' || outer {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Forward rewrites the headers of out, which are on their way to a plain HTTP backend on
// behalf of in, a request below [Edge.Handler]: X-Forwarded-For, -Proto and -Host are set, and
// X-Meshlite-Subject if the caller has one. What comes from outside under these names, and
// others of their kind, is removed, unless in comes from a trusted proxy: then the gateway
// appends itself to X-Forwarded-For, and -Proto is what the proxy says. -Host is always the Host
// of in: proxies pass it on, and an X-Forwarded-Host that they do not write is the caller's.
// [httputil.ReverseProxy] calls it in Rewrite.
func (e *Edge) Forward(in *http.Request, out http.Header) {
	for name := range out {
		if httpform.IsClaim(name) {
			delete(out, name)
		}
	}
	peer := e.peerOf(in)
	var hops []string
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	if peer.trusted {
		hops = e.hops(in)
		if said := e.protoOf(in); said == "http" || said == "https" {
			proto = said
		}
	}
	if peer.IsValid() {
		hops = append(slices.Clone(hops), peer.String())
	}
	if len(hops) > 0 {
		out.Set(forwardedFor, strings.Join(hops, ", "))
	}
	out.Set("X-Forwarded-Proto", proto)
	out.Set("X-Forwarded-Host", in.Host)
	if subject := CallerOf(in.Context()).Subject; subject != "" {
		out.Set(caller.SubjectKey, metadataText(subject))
	}
}
