package main

import (
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sample = `package sample

import "errors"

const most = 10

func check(n int, ok bool) error {
	if n < most && ok {
		count(n)
	} else {
		n = 0
	}
	return errors.New("no")
}

func count(n int) {
	for range n {
		total++
	}
}

var total int

type kind int

func (k kind) String() string { return names[k+1] }
`

func TestMutants(t *testing.T) {
	lines, err := mutantsOf("sample.go", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range lines {
		for _, m := range line {
			got = append(got, m.String())
			if _, err := parser.ParseFile(token.NewFileSet(), "", m.text(), 0); err != nil {
				t.Errorf("%s: %v", m, err)
			}
			if string(m.text()) == sample {
				t.Errorf("%s changes nothing", m)
			}
		}
	}
	want := []string{
		"sample.go:5 10 -> 11",
		"sample.go:8 return nil before `if n < most && ok {`",
		"sample.go:8 negate `n < most && ok`",
		"sample.go:8 `n < most && ok`: && -> ||",
		"sample.go:8 `n < most`: < -> <=",
		"sample.go:8 `n < most`: < -> >=",
		"sample.go:9 drop `count(n)`",
		"sample.go:10 drop the else of if `n < most && ok`",
		"sample.go:11 drop `n = 0`",
		"sample.go:11 0 -> 1",
		"sample.go:17 return before `for range n {`",
		"sample.go:18 drop `total++`",
	}
	if !slices.Equal(got, want) {
		t.Errorf("mutants are\n%q, want\n%q", got, want)
	}
}

func TestTheSameSeedDrawsTheSame(t *testing.T) {
	lines, err := mutantsOf("sample.go", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	first, again, other := drawn(lines, 7), drawn(lines, 7), drawn(lines, 8)
	if len(first) != len(lines) || !reflect.DeepEqual(first, again) || reflect.DeepEqual(first, other) {
		t.Errorf("of %d lines the draws are\n%v\n%v\n%v", len(lines), first, again, other)
	}
}
