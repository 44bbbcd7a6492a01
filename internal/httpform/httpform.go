// Package httpform has what the handlers of the gateway check in HTTP requests:
// which ones two servers could read differently, and which headers a proxy sets.
package httpform

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Check returns why nobody may send a request of the form of r. net/http checks the method,
// the host and the spaces of the URL in HTTP/1.1 only; a transport would refuse them, or write
// another request in HTTP/1.1.
func Check(r *http.Request) error {
	switch {
	case !httpguts.ValidHeaderFieldName(r.Method): // both are tokens
		return errors.New("the method is no token")
	case !httpguts.ValidHostHeader(r.Host):
		return errors.New("the host has a character that no host has")
	case strings.ContainsFunc(r.URL.RawQuery, func(c rune) bool { return c == ' ' || isControl(c) }):
		return errors.New("the query has a space or a control character: percent-encode it")
	case !isPlain(r.URL):
		return errors.New(`the path has a segment "." or "..", or a control character: send it resolved`)
	}
	return nil
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// isPlain reports whether all who read the path of u mean the same by it.
func isPlain(u *url.URL) bool {
	if !strings.HasPrefix(u.Path, "/") || strings.ContainsFunc(u.Path, isControl) {
		return false
	}
	for segment := range strings.FieldsFuncSeq(u.Path, func(c rune) bool { return c == '/' || c == '\\' }) {
		segment, _, _ = strings.Cut(segment, ";") // some servers take "..;" for ".."
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// IsClaim reports whether a header says for whom a proxy calls. Servers that make variables of
// headers (CGI, WSGI) do not distinguish _ from -.
func IsClaim(header string) bool {
	header = strings.ReplaceAll(strings.ToLower(header), "_", "-")
	return strings.HasPrefix(header, "x-forwarded") || strings.HasPrefix(header, "x-meshlite-") || slices.Contains(claims, header)
}

var claims = []string{"forwarded", "x-real-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip", "client-ip"}
