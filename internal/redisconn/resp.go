package redisconn

import (
	"bytes"
	"fmt"
	"strconv"
)

const (
	maxElements = 1 << 19 // of one reply, of which rueidis takes some 20 MB
	maxDepth    = 16      // of lists within lists, for each of which rueidis recurses
	maxHead     = 24      // bytes that are looked at
)

// scanner follows values of RESP as they pass by, in any portions, and refuses what
// would take a reader of them more memory than it is given, or make it panic. It takes
// no more than what servers send: no streamed values and no attributes.
// https://redis.io/docs/latest/develop/reference/protocol-spec
type scanner struct {
	most int64       // bytes of a value; 0 is no bound at all
	done func(value) // is called when a value is complete

	value
	bytes, elements int64 // of the value

	inLine  bool
	kind    byte // of the element
	line    [maxHead]byte
	length  int   // of the line
	last    byte  // of the line
	skip    int64 // left of a string, with its CRLF
	capture bool  // the string is the first element of the value
	peek    bool  // the string is the second one

	left  [maxDepth]int64 // elements that are missing, of each list
	depth int
}

// value is one that is complete.
type value struct {
	kind byte // "*", "$", ">" and so on
	head [maxHead]byte
	size int // of head: the first element of a list, if that is a short string, or an error
	// second is the first byte of the second element of a list of strings.
	second byte
}

func (v *value) first() []byte { return v.head[:v.size] }

func (s *scanner) scan(p []byte) error {
	for len(p) > 0 {
		n, err := s.step(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// step takes the first n bytes of p.
func (s *scanner) step(p []byte) (n int, err error) {
	switch {
	case s.skip > 0:
		n = int(min(int64(len(p)), s.skip))
		if s.capture {
			s.size += copy(s.head[s.size:], p[:min(int64(n), max(s.skip-2, 0))])
		}
		if s.peek {
			s.second, s.peek = p[0], false
		}
		if s.skip -= int64(n); s.skip == 0 {
			s.complete()
		}
		return n, nil
	case !s.inLine:
		if s.kind = p[0]; s.depth == 0 {
			s.value, s.bytes, s.elements = value{kind: p[0]}, 0, 0
		}
		s.inLine, s.length = true, 0
		return 1, s.add(1)
	}
	end := bytes.IndexByte(p, '\n')
	part := p
	if end >= 0 {
		part = p[:end]
	}
	if len(part) > 0 {
		copy(s.line[min(s.length, maxHead):], part)
		s.length, s.last = s.length+len(part), part[len(part)-1]
	}
	if err := s.add(int64(len(part))); err != nil || end < 0 {
		return len(part), err
	}
	s.inLine = false
	return end + 1, s.header()
}

// add counts bytes that a reader keeps.
func (s *scanner) add(n int64) error {
	if s.bytes += n; s.most > 0 && s.bytes > s.most {
		return fmt.Errorf("a reply has more than %d bytes", s.most)
	}
	return nil
}

// header takes a line, which begins an element or is one.
func (s *scanner) header() error {
	if s.length == 0 || s.last != '\r' {
		return errorf(s.kind, "a line without CRLF")
	}
	text := s.line[:min(s.length-1, maxHead)]
	switch s.kind {
	case '+', '-', ':', ',', '(':
		if s.isFirst() || s.kind == '-' && s.depth == 0 {
			s.size = copy(s.head[:], text)
		}
		s.complete()
		return nil
	case '_', '#':
		if s.kind == '_' && len(text) != 0 || s.kind == '#' && len(text) != 1 {
			return errorf(s.kind, "a length that it cannot have")
		}
		s.complete()
		return nil
	case '$', '!', '=', '*', '~', '>', '%':
		return s.sized(text)
	default:
		return errorf(s.kind, "a kind of value that servers do not send")
	}
}

// sized takes the header of what has a length.
func (s *scanner) sized(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	null := n == -1 && s.kind != '%'
	switch {
	case err != nil || s.length > maxHead || text[0] == '+' || n < 0 && !null:
		return errorf(s.kind, "a length that it cannot have")
	case null:
		s.complete()
		return nil
	case s.kind == '$' || s.kind == '!' || s.kind == '=':
		s.capture, s.peek, s.skip = s.isFirst(), s.depth == 1 && s.left[0] == s.elements-1, n+2
		if s.most > 0 && n > s.most {
			return fmt.Errorf("a reply has more than %d bytes", s.most)
		}
		return s.add(n)
	case s.kind == '%':
		n *= 2
	}
	return s.open(n)
}

func (s *scanner) open(n int64) error {
	switch {
	case s.most > 0 && (n > maxElements || s.elements+n > maxElements):
		return fmt.Errorf("a reply has more than %d elements", maxElements)
	case s.depth == maxDepth:
		return fmt.Errorf("a reply has lists in lists, more than %d deep", maxDepth)
	}
	s.elements += n
	if n == 0 {
		s.complete()
		return nil
	}
	s.left[s.depth] = n
	s.depth++
	return nil
}

// isFirst reports whether the element is the first of a list that is the value.
func (s *scanner) isFirst() bool { return s.depth == 1 && s.left[0] == s.elements }

// complete ends an element, and the lists that it is the last of.
func (s *scanner) complete() {
	s.capture = false
	for s.depth > 0 {
		if s.left[s.depth-1]--; s.left[s.depth-1] > 0 {
			return
		}
		s.depth--
	}
	s.done(s.value)
}

func errorf(kind byte, what string) error {
	return fmt.Errorf("a reply has %s, of kind %q", what, string(rune(kind)))
}
