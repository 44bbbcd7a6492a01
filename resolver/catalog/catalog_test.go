package catalog_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKeysTellDifferentQuestionsApart(t *testing.T) {
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
	fmt.Println(catalog.Passing, catalog.Warning, catalog.Critical)
	// Output: passing warning critical
}
