package intention

import (
	"fmt"
	"strings"
)

// FieldError is what is wrong with a field of an intention.
type FieldError struct {
	Field   string // "Permissions[0].PathRegex"
	Problem string // with the value and the fix
}

// Error has both.
func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

func wrong(field, format string, args ...any) *FieldError {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}

// in is the error of a field within another one.
func (e *FieldError) in(outer string) *FieldError {
	if e.Field != "" {
		outer += "." + e.Field
	}
	return &FieldError{outer, e.Problem}
}

// Check returns what is not understood in i, nil if it is.
func (i *Intention) Check() *FieldError {
	return (&rule{Intention: i}).compile()
}

// CheckSource returns why name can be no source: not the name of a service, nor a SPIFFE id,
// nor [Wildcard].
func CheckSource(name string) error {
	parts := []string{name}
	switch {
	case name == Wildcard:
		return nil
	case isID(name):
		parts = strings.Split(strings.TrimPrefix(name, scheme), "/")
		if len(parts) < 2 || parts[0] != strings.ToLower(parts[0]) {
			return fmt.Errorf("%.200q is no SPIFFE id: write one such as spiffe://example.org/shop/storefront", name)
		}
	}
	for _, part := range parts {
		if !segment(part) {
			return fmt.Errorf("%.200q is no source: write a service by letters, digits and ._- only, a SPIFFE id without *, or * alone", name)
		}
	}
	return nil
}

const scheme = "spiffe://"

// isID reports whether a source is a whole SPIFFE id.
func isID(source string) bool { return strings.HasPrefix(source, scheme) }

// segment reports whether text may be a part of a SPIFFE id, and no more than one.
func segment(text string) bool {
	return text != "" && text != "." && text != ".." &&
		strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}
