// Package httpform has what the handlers of the gateway check in HTTP requests:
// which ones two servers could read differently, and which headers a proxy sets.
package httpform

import (
	"errors"
	"net/http"
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
	default:
		return CheckPath(r.URL.Path)
	}
}

// CheckPath returns why servers could read a path, which is decoded, in several ways.
func CheckPath(path string) error {
	if !isPlain(path) {
		return errors.New(`the path has a segment "." or "..", or a control character: send it resolved`)
	}
	return nil
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// isPlain reports whether all who read path mean the same by it.
func isPlain(path string) bool {
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, isControl) {
		return false
	}
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
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
