package transcode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxNumber is the most characters of a JSON number: more than any number that a field holds.
const maxNumber = 400

// scanJSON checks what protojson does not bound: that text is one value, no deeper than
// MaxDepth, of no more than MaxValues, with no endless number. protojson checks
// that it is JSON.
func (c *Config) scanJSON(text []byte) (offset int, err error) {
	depth, values := 0, 1
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[', ',':
			if values++; values > c.MaxValues {
				return i, fmt.Errorf("more than %d values", c.MaxValues)
			}
		}
		switch b := text[i]; {
		case b == '"':
			end := endOfString(text, i)
			if end < 0 {
				return i, errors.New("a string that does not end")
			}
			i = end - 1
		case b == '{' || b == '[':
			if depth++; depth > c.MaxDepth {
				return i, fmt.Errorf("nested deeper than %d", c.MaxDepth)
			}
		case b == '}' || b == ']':
			if depth--; depth < 0 {
				return i, fmt.Errorf("unexpected %q", b)
			}
		case (b == ',' || b == ':') && depth == 0:
			return i, fmt.Errorf("unexpected %q", b)
		case b >= '0' && b <= '9':
			start := i
			for i+1 < len(text) && strings.IndexByte("0123456789.eE+-", text[i+1]) >= 0 {
				i++
			}
			if i-start >= maxNumber {
				return start, fmt.Errorf("a number of more than %d characters", maxNumber)
			}
		}
	}
	if depth > 0 {
		return len(text), errors.New("unexpected end of JSON")
	}
	return 0, nil
}

// endOfString is the offset after the string that starts at text[start], or -1.
func endOfString(text []byte, start int) int {
	for i := start + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// compact removes the space between tokens in place. protojson adds some that differs from
// build to build.
func compact(text []byte) []byte {
	kept := text[:0]
	for i := 0; i < len(text); {
		switch text[i] {
		case ' ', '\n', '\t', '\r':
			i++
		case '"':
			end := endOfString(text, i)
			if end < 0 {
				end = len(text)
			}
			kept = append(kept, text[i:end]...)
			i = end
		default:
			kept = append(kept, text[i])
			i++
		}
	}
	return kept
}

var jsonPosition = regexp.MustCompile(`^(?:proto:.)?\s*(?:syntax error )?\(line (\d+):(\d+)\): `)

// positionOf splits an error of protojson into the offset in text that it is about, -1 if it
// has none, and its reason.
func positionOf(err error, text []byte) (offset int, reason string) {
	message := strings.ReplaceAll(err.Error(), "\u00a0", " ") // protobuf varies the space
	match := jsonPosition.FindStringSubmatch(message)
	if match == nil {
		return -1, strings.TrimPrefix(message, "proto: ")
	}
	line, _ := strconv.Atoi(match[1])
	column, _ := strconv.Atoi(match[2])
	for ; line > 1; line-- {
		end := bytes.IndexByte(text[offset:], '\n')
		if end < 0 {
			return -1, message[len(match[0]):]
		}
		offset += end + 1
	}
	for ; column > 1 && offset < len(text); column-- {
		_, size := utf8.DecodeRune(text[offset:])
		offset += size
	}
	return offset, message[len(match[0]):]
}

// level is an object or array that surrounds an offset.
type level struct {
	message protoreflect.MessageDescriptor // of the object, or of the elements; nil is not known
	array   bool
	isMap   bool // the keys are no fields
	key     string
	keyed   bool // key is set
	index   int
}

// fieldAt is the path of the value or name at offset, as the caller has written it:
// items[2].tags["a"].name. The text may be broken from there on.
func fieldAt(text []byte, offset int, message protoreflect.MessageDescriptor) string {
	var levels []level
	next := level{message: message} // what an object or array that starts now would be
	for i := 0; i < len(text) && i < offset; {
		switch c := text[i]; {
		case c == '{' || c == '[':
			next.array = c == '['
			levels = append(levels, next)
			next = levels[len(levels)-1].element()
			i++
		case c == '}' || c == ']':
			if len(levels) > 0 {
				levels = levels[:len(levels)-1]
			}
			i++
		case c == ',' && len(levels) > 0:
			top := &levels[len(levels)-1]
			top.index++
			top.keyed = false
			next = top.element()
			i++
		case c == '"':
			end := endOfString(text, i)
			if end < 0 {
				end = len(text)
			}
			if len(levels) > 0 {
				if top := &levels[len(levels)-1]; !top.array && !top.keyed {
					top.setKey(text[i:end])
					next = top.element()
				}
			}
			i = end
		default:
			i++
		}
	}
	if len(levels) > 0 && offset < len(text) && text[offset] == '"' { // the name itself is wrong
		if top := &levels[len(levels)-1]; !top.array && !top.keyed {
			if end := endOfString(text, offset); end > 0 {
				top.setKey(text[offset:end])
			}
		}
	}
	return pathOfLevels(levels)
}

func (l *level) setKey(quoted []byte) {
	l.keyed = json.Unmarshal(quoted, &l.key) == nil
}

// element is what an object or array at the current place of l would be.
func (l *level) element() level {
	switch {
	case l.array || l.isMap:
		return level{message: l.message}
	case l.message == nil || !l.keyed:
		return level{}
	}
	field := fieldNamed(l.message, l.key)
	switch {
	case field == nil:
		return level{}
	case field.IsMap():
		return level{message: described(field.MapValue().Message()), isMap: true}
	case field.Message() != nil && field.Message().FullName() == "google.protobuf.Struct":
		return level{isMap: true}
	}
	return level{message: described(field.Message())}
}

// described is nil for the messages whose JSON is not that of their fields.
func described(message protoreflect.MessageDescriptor) protoreflect.MessageDescriptor {
	if message != nil && message.ParentFile().Package() == "google.protobuf" {
		return nil
	}
	return message
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func pathOfLevels(levels []level) string {
	var path strings.Builder
	for _, l := range levels {
		switch {
		case l.array:
			fmt.Fprintf(&path, "[%d]", l.index)
		case !l.keyed:
		case l.isMap || !identifier.MatchString(l.key):
			fmt.Fprintf(&path, "[%q]", l.key)
		default:
			if path.Len() > 0 {
				path.WriteByte('.')
			}
			path.WriteString(l.key)
		}
	}
	return path.String()
}

// shortened cuts text that a caller has sent to what a person reads.
func shortened(text string) string {
	const most = 200
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= most {
		return text
	}
	cut := most
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}
