package cache

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
)

// Subject names answers that are invalidated together.
type Subject struct {
	name    string
	request proto.Message // of one request: its name depends on the rule
	method  string
}

// everything is the name of the subject that all answers belong to.
const everything = "all"

// longestTag is the longest tag that is kept, and told to others, as it is.
const longestTag = 256

// Everything is all answers.
func Everything() Subject { return Subject{name: everything} }

// Method is all answers of a method, "package.Service/Method".
func Method(name string) Subject {
	if name == "" {
		return Subject{}
	}
	return Subject{name: methodSubject(name)}
}

// Tag is all answers that carry a tag, such as "sweets", or "sweet:fudge" of a rule that
// says tags: "sweet:{id}".
func Tag(tag string) Subject {
	if tag == "" {
		return Subject{}
	}
	return Subject{name: tagSubject(tag)}
}

// Request is all answers to one request of a method, whoever they were for. A rule with
// key_fields looks at those fields of it, once a call has been made under it in this process.
func Request(method string, request proto.Message) Subject {
	return Subject{method: fullMethod(method), request: request}
}

func fullMethod(name string) string { return "/" + strings.TrimPrefix(name, "/") }

func methodSubject(name string) string { return "method " + fullMethod(name) }

func tagSubject(tag string) string {
	if len(tag) > longestTag {
		tag = "sha256:" + digest([]byte(tag))
	}
	return "tag " + tag
}

// requestSubject names a request by its bytes as they stand in keys.
func requestSubject(method string, request []byte) string {
	return "request " + method + " " + digest(request)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// namesOf is how processes call s among themselves: a request by all of it, and by the key
// fields of each rule.
func (c *Cache) namesOf(s Subject) ([]string, error) {
	switch {
	case s.request != nil:
		var names []string
		for _, fields := range append([][]fieldPath{nil}, c.methods.of(s.method).keyFields()...) {
			b, err := appendRequest(nil, s.request.ProtoReflect(), fields)
			if err != nil {
				return nil, fmt.Errorf("cache: request of %s: %w", strings.TrimPrefix(s.method, "/"), err)
			}
			names = append(names, requestSubject(s.method, b))
		}
		return names, nil
	case s.name == "":
		return nil, errors.New("cache: a subject without a name: use Everything, Method, Tag or Request")
	}
	return []string{s.name}, nil
}
