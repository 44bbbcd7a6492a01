//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits of a filter. Consul has none.
const (
	maxFilter      = 8 << 10 // bytes
	maxFilterDepth = 100     // of parentheses and nots
)

// filter is an expression of ?filter or of a subset, as Consul writes them: comparisons,
// joined by and, or, not and parentheses. The zero value matches everything. Consul's own
// go-bexpr is not used: its time grows fourfold with each level of parentheses.
// https://developer.hashicorp.com/consul/api-docs/features/filtering
type filter struct {
	op       filterOp
	operands []*filter // of opAnd, opOr, opNot

	selector []string
	value    string
	negated  bool           // != and the like
	pattern  *regexp.Regexp // of opMatches
}

type filterOp int

const (
	opAll filterOp = iota
	opAnd
	opOr
	opNot
	opEqual
	opContains // a substring, an item or a key
	opMatches
	opEmpty
)

// opName is how Consul calls a comparison.
func (f *filter) opName() string {
	names := map[filterOp][2]string{
		opEqual: {"Equal", "Not Equal"}, opContains: {"In", "Not In"}, opMatches: {"Matches", "Not Matches"}, opEmpty: {"Is Empty", "Is Not Empty"},
	}
	if f.negated {
		return names[f.op][1]
	}
	return names[f.op][0]
}

// parseFilter reads a filter. An empty text is one that matches everything.
func parseFilter(text string) (*filter, error) {
	if text == "" {
		return &filter{}, nil
	}
	if len(text) > maxFilter {
		return nil, fmt.Errorf("consultest: a filter of %d bytes is too long: want at most %d", len(text), maxFilter)
	}
	p := &filterParser{text: text}
	f, err := p.or()
	if err == nil && p.skip() < len(text) {
		err = p.expected(`"and", "or" or EOF`)
	}
	return f, err
}

// filterParser reads the text from at. Its methods have the names of what they read.
type filterParser struct {
	text  string
	at    int
	depth int
}

func (p *filterParser) expected(what string) error {
	return fmt.Errorf("1:%d (%d): no match found, expected: %s", p.at+1, p.at, what)
}

// skip skips blanks and returns where it is then.
func (p *filterParser) skip() int {
	for p.at < len(p.text) && strings.ContainsRune(" \t\r\n", rune(p.text[p.at])) {
		p.at++
	}
	return p.at
}

// word reads a keyword that ends where a name would.
func (p *filterParser) word(word string) bool {
	rest := p.text[p.skip():]
	if !strings.HasPrefix(rest, word) || len(rest) > len(word) && nameByte(rest[len(word)]) {
		return false
	}
	p.at += len(word)
	return true
}

func (p *filterParser) symbol(symbol string) bool {
	if !strings.HasPrefix(p.text[p.skip():], symbol) {
		return false
	}
	p.at += len(symbol)
	return true
}

func nameByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (p *filterParser) or() (*filter, error) { return p.joined(opOr, "or", p.and) }

func (p *filterParser) and() (*filter, error) { return p.joined(opAnd, "and", p.not) }

// joined reads operands that a word joins.
func (p *filterParser) joined(op filterOp, word string, operand func() (*filter, error)) (*filter, error) {
	f, err := operand()
	if err != nil {
		return nil, err
	}
	joined := &filter{op: op, operands: []*filter{f}}
	for p.word(word) {
		if f, err = operand(); err != nil {
			return nil, err
		}
		joined.operands = append(joined.operands, f)
	}
	if len(joined.operands) == 1 {
		return f, nil
	}
	return joined, nil
}

func (p *filterParser) not() (*filter, error) {
	if p.depth++; p.depth > maxFilterDepth {
		return nil, fmt.Errorf("consultest: a filter can nest %d deep at most", maxFilterDepth)
	}
	defer func() { p.depth-- }()
	if p.word("not") {
		f, err := p.not()
		return &filter{op: opNot, operands: []*filter{f}}, err
	}
	if !p.symbol("(") {
		return p.comparison()
	}
	f, err := p.or()
	if err == nil && !p.symbol(")") {
		err = fmt.Errorf("1:%d (%d): rule \"grouping\": Unmatched parentheses", p.at+1, p.at)
	}
	return f, err
}

// comparison reads one of a selector and a value, in the order that its operator wants.
func (p *filterParser) comparison() (*filter, error) {
	start := p.skip()
	left, selector, err := p.operand()
	if err != nil {
		return nil, err
	}
	f := &filter{selector: selector}
	switch {
	case p.symbol("=="):
		f.op = opEqual
	case p.symbol("!="):
		f.op, f.negated = opEqual, true
	case p.word("is"):
		f.op, f.negated = opEmpty, p.word("not")
		if !p.word("empty") {
			return nil, p.expected(`"empty"`)
		}
		return f, p.wantSelector(selector, start)
	default:
		f.negated = p.word("not")
		switch {
		case p.word("contains"):
			f.op = opContains
		case p.word("matches"):
			f.op = opMatches
		case p.word("in"):
			f.op, f.value, start = opContains, left, p.skip()
			_, f.selector, err = p.operand()
			return f, cmp.Or(err, p.wantSelector(f.selector, start))
		default:
			return nil, p.expected(`"!=", "==", "contains", "in", "is", "matches", "not"`)
		}
	}
	if err := p.wantSelector(selector, start); err != nil {
		return nil, err
	}
	f.value, _, err = p.operand()
	return f, err
}

func (p *filterParser) wantSelector(selector []string, at int) error {
	if selector == nil {
		return fmt.Errorf("1:%d (%d): rule \"match\": Invalid selector", at+1, at)
	}
	return nil
}

// operand reads a value, which is quoted, a number or a name, and its parts if it may be a selector.
func (p *filterParser) operand() (value string, selector []string, err error) {
	rest := p.text[p.skip():]
	switch {
	case rest == "":
		return "", nil, p.expected(`a selector or a value`)
	case rest[0] == '"' || rest[0] == '`':
		value, err = p.quoted()
		return value, nil, err
	case rest[0] == '-' || rest[0] >= '0' && rest[0] <= '9':
		return p.number()
	}
	return p.selectorOperand()
}

func (p *filterParser) quoted() (string, error) {
	text, err := strconv.QuotedPrefix(p.text[p.at:])
	if err != nil {
		return "", fmt.Errorf("1:%d (%d): rule \"string\": Unterminated string literal, or an escape that it cannot have", p.at+1, p.at)
	}
	p.at += len(text)
	return strconv.Unquote(text)
}

var filterNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?`)

func (p *filterParser) number() (string, []string, error) {
	text := filterNumber.FindString(p.text[p.at:])
	if end := p.at + len(text); text == "" || end < len(p.text) && (nameByte(p.text[end]) || p.text[end] == '.') {
		return "", nil, fmt.Errorf("1:%d (%d): rule \"number\": Invalid number literal: write it in quotes", p.at+1, p.at)
	}
	p.at += len(text)
	return text, nil, nil
}

func (p *filterParser) selectorOperand() (string, []string, error) {
	start := p.at
	name, err := p.name()
	selector := []string{name}
	for err == nil && p.at < len(p.text) {
		switch p.text[p.at] {
		case '.':
			p.at++
			name, err = p.name()
		case '[':
			p.at++
			if name, err = p.quoted(); err == nil && !p.symbol("]") {
				err = p.expected(`"]"`)
			}
		default:
			return p.text[start:p.at], selector, nil
		}
		selector = append(selector, name)
	}
	return p.text[start:p.at], selector, err
}

func (p *filterParser) name() (string, error) {
	start := p.at
	for p.at < len(p.text) && nameByte(p.text[p.at]) {
		p.at++
	}
	if name := p.text[start:p.at]; name != "" && (name[0] < '0' || name[0] > '9') {
		return name, nil
	}
	return "", p.expected("a name, such as Service.Meta.version")
}

// bind returns an error if f compares what entries of health do not have, or not so.
func (f *filter) bind() error {
	for _, operand := range f.operands {
		if err := operand.bind(); err != nil {
			return err
		}
	}
	if f.selector == nil {
		return nil
	}
	t, err := f.selected()
	if err != nil {
		return err
	}
	selector := strings.Join(f.selector, ".")
	if !slices.Contains(opsOf(t), f.op) {
		return fmt.Errorf("Invalid match operator %q for selector %q", f.opName(), selector)
	}
	if f.op == opMatches {
		if f.pattern, err = regexp.Compile(f.value); err != nil {
			return fmt.Errorf("Failed to compile regular expression %q: %w", f.value, err)
		}
	}
	switch t.Kind() {
	case reflect.Int:
		_, err = strconv.ParseInt(f.value, 0, 64)
	case reflect.Bool:
		_, err = strconv.ParseBool(f.value)
	}
	if err != nil {
		return fmt.Errorf("Failed to coerce value %q for selector %q: %w", f.value, selector, err)
	}
	return nil
}

// selected is the type of what f selects.
func (f *filter) selected() (reflect.Type, error) {
	if f.selector[0] == "Checks" {
		return nil, errors.New("consultest: filters by Checks are not supported: by Service and Node only")
	}
	t := reflect.TypeFor[healthEntryJSON]()
	for i, name := range f.selector {
		var field reflect.StructField
		ok := false
		switch t.Kind() {
		case reflect.Map:
			field.Type, ok = t.Elem(), true
		case reflect.Struct:
			field, ok = t.FieldByName(name)
			ok = ok && !slices.Contains([]string{"Locality", "CreateIndex", "ModifyIndex"}, name)
		}
		if !ok {
			return nil, fmt.Errorf("Selector %q is not valid", strings.Join(f.selector[:i+1], "."))
		}
		t = field.Type
	}
	return t, nil
}

// opsOf returns what values of a type are compared by.
func opsOf(t reflect.Type) []filterOp {
	switch t.Kind() {
	case reflect.String:
		return []filterOp{opEqual, opContains, opMatches}
	case reflect.Int, reflect.Bool:
		return []filterOp{opEqual}
	case reflect.Slice, reflect.Map:
		return []filterOp{opContains, opEmpty}
	}
	return nil
}

// matches reports whether f, which is bound, matches an entry.
func (f *filter) matches(entry *healthEntryJSON) bool {
	matches := func(operand *filter) bool { return operand.matches(entry) }
	switch f.op {
	case opAnd:
		return !slices.ContainsFunc(f.operands, func(operand *filter) bool { return !matches(operand) })
	case opOr:
		return slices.ContainsFunc(f.operands, matches)
	case opNot:
		return !matches(f.operands[0])
	case opAll:
		return true
	}
	v := reflect.ValueOf(entry).Elem()
	for _, name := range f.selector {
		if v.Kind() == reflect.Struct {
			v = v.FieldByName(name)
		} else if v = v.MapIndex(reflect.ValueOf(name)); !v.IsValid() {
			return f.negated || f.op == opMatches // so does Consul
		}
	}
	return f.matchesValue(v) != f.negated
}

func (f *filter) matchesValue(v reflect.Value) bool {
	switch f.op {
	case opEmpty:
		return v.Len() == 0
	case opMatches:
		return f.pattern.MatchString(v.String())
	}
	switch v.Kind() {
	case reflect.Int:
		n, err := strconv.ParseInt(f.value, 0, 64)
		return err == nil && v.Int() == n
	case reflect.Bool:
		b, err := strconv.ParseBool(f.value)
		return err == nil && v.Bool() == b
	case reflect.Map:
		return v.MapIndex(reflect.ValueOf(f.value)).IsValid()
	case reflect.Slice:
		items, _ := v.Interface().([]string)
		return slices.Contains(items, f.value)
	}
	if f.op == opContains {
		return strings.Contains(v.String(), f.value)
	}
	return v.String() == f.value
}

// filterOf reads the filter of a request.
func filterOf(r *http.Request) (*filter, error) {
	f, err := parseFilter(r.URL.Query().Get("filter"))
	if err == nil {
		err = f.bind()
	}
	if err != nil {
		return nil, fmt.Errorf("Failed to create boolean expression evaluator: %w", err)
	}
	return f, nil
}
