package catalog

import (
	"errors"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckName returns why name, of a service or an instance, cannot be part of the path of
// a URL, or printed, as it is. A directory may take such a name and never find it
// again: servers clean paths, and Consul refuses one that holds what cannot be printed.
func CheckName(name string) error {
	if err := CheckPrintable(name); err != nil {
		return err
	}
	if path.Clean("/"+name) != "/"+name {
		return errors.New("in the path of a URL it becomes another: write no slash at its beginning or end, no two in a row, and neither . nor .. alone between them")
	}
	return nil
}

// CheckPrintable returns why text, such as a tag or a zone, cannot be a label of a metric
// or a word on a terminal as it is.
func CheckPrintable(text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("it holds what cannot be printed: write letters, digits, spaces and punctuation in UTF-8")
	}
	return nil
}
