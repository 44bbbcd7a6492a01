package reflectcall_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/internal/reflectcall"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestRequest(t *testing.T) {
	method, err := reflectcall.Lookup(t.Context(), serve(t, shop), "sweetshop.catalog.v1.CatalogService.ListSweets")
	if err != nil {
		t.Fatal(err)
	}
	// Both ways to write a name are protobuf's.
	for _, text := range []string{`{"section": "boiled", "pageSize": 3}`, `{"section": "boiled", "page_size": 3}`} {
		request, err := method.Request([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		bytes, _ := proto.Marshal(request)
		got := &catalogv1.ListSweetsRequest{}
		if err := proto.Unmarshal(bytes, got); err != nil || got.GetSection() != "boiled" || got.GetPageSize() != 3 {
			t.Errorf("%s is %v (%v) to the server", text, got, err)
		}
	}
	for text, says := range map[string]string{
		`{"sektion": "boiled"}`: `(line 1:2): unknown field "sektion" (ListSweetsRequest has section, pageSize, pageToken)`,
		`{"pageSize": "many"}`:  `(line 1:14): invalid value for uint32`,
		`{"pageSize": 3`:        `unexpected EOF`,
		`[]`:                    `unexpected token [`,
	} {
		_, err := method.Request([]byte(text))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "ListSweetsRequest") {
			t.Errorf("%s: got %v, want %q", text, err, says)
		}
	}
}

func TestJSON(t *testing.T) {
	method, err := reflectcall.Lookup(t.Context(), serve(t, shop), getSweet)
	if err != nil {
		t.Fatal(err)
	}
	bytes, _ := proto.Marshal(&catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: "humbug", PricePence: 90}})
	answer := method.NewAnswer()
	if err := proto.Unmarshal(bytes, answer); err != nil {
		t.Fatal(err)
	}
	// The same each time, though protojson alone is not.
	for range 20 {
		text, err := method.JSON(answer)
		if want := `{"sweet":{"id":"humbug","pricePence":90}}`; err != nil || string(text) != want {
			t.Fatalf("got %s, %v; want %s", text, err, want)
		}
	}
}

func TestSplitName(t *testing.T) {
	for name, want := range map[string][2]string{
		"a.v1.S/M":  {"a.v1.S", "M"},
		"/a.v1.S/M": {"a.v1.S", "M"},
		"a.v1.S.M":  {"a.v1.S", "M"},
		"S/M":       {"S", "M"},
		"S.M":       {"S", "M"},
		"S":         {"S", ""},
		"/S":        {"S", ""},
		"a.v1.S/":   {"a.v1.S", ""},
	} {
		service, method, err := reflectcall.SplitName(name)
		if err != nil || service != want[0] || method != want[1] {
			t.Errorf("SplitName(%q) = %q, %q, %v", name, service, method, err)
		}
	}
	for _, name := range []string{"", "/", "//", "//M", "a/b/c", "a.b.", ".a", "a b", "a..S/M", "a.S/M.N", "a b/M", "http://a/b"} {
		if _, _, err := reflectcall.SplitName(name); err == nil || !strings.Contains(err.Error(), "write package.Service/Method") {
			t.Errorf("SplitName(%q): got %v", name, err)
		}
	}
}

func FuzzSplitName(f *testing.F) {
	for _, seed := range []string{"a.v1.S/M", "/a.v1.S/M", "a.v1.S.M", "//", "a/b/c", "\xff.S/M"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		service, method, err := reflectcall.SplitName(name)
		if err != nil {
			return
		}
		again, same, err := reflectcall.SplitName("/" + service + "/" + method)
		if err != nil || again != service || same != method {
			t.Errorf("%q is %q and %q, which is %q and %q (%v)", name, service, method, again, same, err)
		}
	})
}
