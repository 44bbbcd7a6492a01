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

// maxForwarded bounds the metadata that a caller can write, as HTTP/2 counts it: servers of this
// module take 16 KiB in all, and a call with more is INTERNAL. What a trace has must fit, too, or
// is left out; W3C has others pass on 8 KiB.
const (
	maxForwarded = 12 << 10
	maxTrace     = 8 << 10
	perField     = 32
)

// passedOn are the names of request headers, in lower case, that gRPC backends get as metadata.
type passedOn []string

func newPassedOn(names []string) (keys passedOn, err error) {
	for _, name := range names {
		key := strings.ToLower(name)
		switch {
		case !caller.ValidKey(key):
			return nil, wrong("Headers", "%q is no metadata key: write letters, digits and _-. only", name)
		case slices.Contains(hopByHop, key):
			return nil, wrong("Headers", "%q is a header of one connection and is never passed on", name)
		case slices.Contains(ours, key):
			return nil, wrong("Headers", "%q is set by the gateway: leave it out", name)
		case !slices.Contains(keys, key):
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// size is that of the headers that are passed on, in bytes.
func (keys passedOn) size(header http.Header) (n int) {
	for _, key := range keys {
		for _, value := range header[http.CanonicalHeaderKey(key)] {
			n += len(key) + len(value) + perField
		}
	}
	return n
}

// copy adds the headers to md. What metadata cannot carry is left out.
func (keys passedOn) copy(md metadata.MD, header http.Header) {
	if len(keys) == 0 {
		return
	}
	hop := connectionHeaders(header)
	for _, key := range keys {
		if slices.Contains(hop, key) {
			continue
		}
		for _, value := range header[http.CanonicalHeaderKey(key)] {
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
