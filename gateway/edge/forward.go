package edge

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
)

// hopByHop are headers of one connection (RFC 9110, 7.6.1, and what was used before).
var hopByHop = []string{"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

// ours are headers that the gateway sets, or gRPC does.
var ours = []string{
	caller.SubjectKey, "x-forwarded-for", "traceparent", "tracestate", "baggage", "host", "content-length",
	"content-type", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-message-type", "grpc-message", "grpc-status", "grpc-status-details-bin",
}

// maxTrace bounds the headers of a trace, in bytes: as many as W3C has others pass on.
const maxTrace = 8 << 10

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
	setTrace(md, r.Header)
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

// connectionHeaders are those that a request's Connection header names, in lower case.
func connectionHeaders(header http.Header) (names []string) {
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			names = append(names, strings.ToLower(strings.TrimSpace(name)))
		}
	}
	return names
}

// setTrace passes on the trace context of W3C, if it is one.
func setTrace(md metadata.MD, header http.Header) {
	if parents := header["Traceparent"]; len(parents) == 1 && isTraceparent(parents[0]) {
		md["traceparent"] = parents
		if state := strings.Join(header["Tracestate"], ","); state != "" && len(state) <= maxTrace && printable(state) {
			md["tracestate"] = []string{state}
		}
	}
	if baggage := strings.Join(header["Baggage"], ","); baggage != "" && len(baggage) <= maxTrace && printable(baggage) {
		md["baggage"] = []string{baggage}
	}
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
// appends itself to X-Forwarded-For and leaves -Proto and -Host alone. [httputil.ReverseProxy]
// calls it in Rewrite.
func (e *Edge) Forward(in *http.Request, out http.Header) {
	for name := range out {
		if claims(name) {
			delete(out, name)
		}
	}
	peer := e.peerOf(in)
	var hops []string
	proto, host := "http", in.Host
	if in.TLS != nil {
		proto = "https"
	}
	if peer.trusted {
		hops = e.hops(in)
		if values := in.Header["X-Forwarded-Proto"]; len(values) == 1 && (values[0] == "http" || values[0] == "https") {
			proto = values[0]
		}
		if values := in.Header["X-Forwarded-Host"]; len(values) == 1 && values[0] != "" {
			host = values[0]
		}
	}
	if peer.IsValid() {
		hops = append(slices.Clone(hops), peer.String())
	}
	if len(hops) > 0 {
		out.Set(forwardedFor, strings.Join(hops, ", "))
	}
	out.Set("X-Forwarded-Proto", proto)
	out.Set("X-Forwarded-Host", host)
	if subject := CallerOf(in.Context()).Subject; subject != "" {
		out.Set(caller.SubjectKey, metadataText(subject))
	}
}

// claims reports whether a header says for whom a proxy calls. Servers that make variables of
// headers (CGI, WSGI) do not distinguish _ from -.
func claims(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	for _, prefix := range []string{"x-forwarded", "x-meshlite-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{"forwarded", "x-real-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip", "client-ip"}, name)
}
