package catalog_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKeysDifferForDifferentQueries(t *testing.T) {
	base := catalog.Query{Service: "catalog", Tags: []string{"a", "b"}}
	for _, same := range []catalog.Query{
		{Service: "catalog", Tags: []string{"b", "a"}},
		{Service: "catalog", Tags: []string{"b", "a", "b"}},
	} {
		if same.Key() != base.Key() {
			t.Errorf("%+v has the key %q, want %q", same, same.Key(), base.Key())
		}
	}
	for _, other := range []catalog.Query{
		{Service: "catalog"},
		{Service: "catalog", Tags: []string{"a&tag=b"}},
		{Service: "other", Tags: base.Tags},
		{Service: "catalog", Tags: base.Tags, Datacenter: "dc2"},
		{Service: "catalog", Tags: base.Tags, Near: "_agent"},
		{Service: "catalog", Tags: base.Tags, Warning: true},
		{Service: "catalog", Tags: base.Tags, Filter: "Node.Node == a"},
		{Service: "catalog", Tags: base.Tags, Consistency: catalog.Cached},
	} {
		if other.Key() == base.Key() {
			t.Errorf("%+v has the key of %+v", other, base)
		}
	}
}

func ExampleQuery_Key() {
	one := catalog.Query{Service: "catalog", Tags: []string{"v2", "canary"}}
	two := catalog.Query{Service: "catalog", Tags: []string{"canary", "v2"}}
	fmt.Println(one.Key() == two.Key())
	// Output: true
}

func ExampleStatus() {
	fmt.Println(catalog.Passing, catalog.Warning, catalog.Critical, catalog.Maintenance)
	// Output: passing warning critical maintenance
}

// A field that Equal ignores would never reach a channel when it changes.
func TestEqualSeesEveryField(t *testing.T) {
	base := catalog.Instance{Tags: []string{"a"}, Metadata: map[string]string{"k": "v"}}
	if !base.Equal(catalog.Instance{Tags: []string{"a"}, Metadata: map[string]string{"k": "v"}}) {
		t.Error("equal instances differ")
	}
	for i := range reflect.TypeFor[catalog.Instance]().NumField() {
		other := base
		switch field := reflect.ValueOf(&other).Elem().Field(i); field.Kind() {
		case reflect.String:
			field.SetString("other")
		case reflect.Slice, reflect.Map:
			field.SetZero()
		default:
			field.Set(reflect.ValueOf(7).Convert(field.Type()))
		}
		if base.Equal(other) {
			t.Errorf("instances with another %s are equal", reflect.TypeFor[catalog.Instance]().Field(i).Name)
		}
	}
}

func TestStatusIsReadAsItIsWritten(t *testing.T) {
	for _, s := range []catalog.Status{catalog.Passing, catalog.Warning, catalog.Critical, catalog.Maintenance} {
		text, err := json.Marshal(s)
		if err != nil || string(text) != `"`+s.String()+`"` {
			t.Errorf("%v is written as %s, %v", s, text, err)
		}
		got := catalog.Status(7)
		if err := json.Unmarshal(text, &got); err != nil || got != s {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
	}
	if err := json.Unmarshal([]byte(`"fine"`), new(catalog.Status)); err == nil {
		t.Error("an unknown status is taken")
	}
}

func TestConsistencyIsReadAsItIsWritten(t *testing.T) {
	for _, c := range []catalog.Consistency{catalog.Stale, catalog.Consistent, catalog.Cached} {
		if got, err := catalog.ParseConsistency(c.String()); err != nil || got != c {
			t.Errorf("%v is read as %v, %v", c, got, err)
		}
		text, err := json.Marshal(c)
		if err != nil || string(text) != `"`+c.String()+`"` {
			t.Errorf("%v is written as %s, %v", c, text, err)
		}
		got := catalog.Consistency(7)
		if err := json.Unmarshal(text, &got); err != nil || got != c {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
	}
	if _, err := catalog.ParseConsistency("strong"); err == nil {
		t.Error("an unknown consistency is taken")
	}
	if err := json.Unmarshal([]byte(`"strong"`), new(catalog.Consistency)); err == nil {
		t.Error("an unknown consistency is taken from JSON")
	}
}
