package openapi

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// internalComment is what AIP-192 keeps from the public.
var internalComment = regexp.MustCompile(`(?s)\(--.*?--\)`)

// comment returns the comment of d: that before it, or that behind it on its line.
func comment(d protoreflect.Descriptor) string {
	file := d.ParentFile()
	if file == nil {
		return ""
	}
	at := file.SourceLocations().ByDescriptor(d)
	text := internalComment.ReplaceAllString(cmp.Or(at.LeadingComments, at.TrailingComments), "")
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(strings.TrimPrefix(line, " "), " \t\r\n")
		if strings.HasPrefix(line, "buf:lint:") || strings.HasPrefix(line, "@exclude") {
			continue
		}
		lines = append(lines, line)
	}
	text = strings.ToValidUTF8(strings.TrimSpace(strings.Join(lines, "\n")), "")
	if len(text) > maxComment {
		text = strings.ToValidUTF8(text[:maxComment], "") + "..."
	}
	return text
}

// firstSentence returns the start of text up to the first full stop, on one line.
func firstSentence(text string) string {
	first, _, _ := strings.Cut(text, "\n\n")
	first = strings.Join(strings.Fields(first), " ")
	if sentence, _, more := strings.Cut(first, ". "); more {
		return sentence + "."
	}
	return first
}

// paragraphs joins those that are not empty.
func paragraphs(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(s string) bool { return s == "" }), "\n\n")
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
