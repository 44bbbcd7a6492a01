package consultest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// An entry that is taken is shown as one that is taken again, and makes a chain or breaks none.
func FuzzWriteConfig(f *testing.F) {
	for _, entry := range entries {
		f.Add(entry)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		s := consultest.New()
		defer s.Close()
		must(t, s.WriteConfig(`{"Kind":"service-defaults","Name":"b","Protocol":"grpc"}`))
		must(t, s.WriteConfig(`{"Kind":"service-resolver","Name":"web","Subsets":{"v1":{},"v2":{}}}`))
		must(t, s.WriteConfig(`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"grpc"}}`))
		if s.WriteConfig(entry) != nil {
			return
		}
		c := &http.Client{Transport: s.Transport()}
		for _, kind := range []string{"service-defaults", "service-router", "service-splitter", "service-resolver", "proxy-defaults"} {
			var shown []json.RawMessage
			list := do(t, c, "GET", "/v1/config/"+kind, "")
			must(t, json.Unmarshal([]byte(list.body), &shown))
			for _, entry := range shown {
				must(t, s.WriteConfig([]byte(entry)))
				var named struct{ Name string }
				must(t, json.Unmarshal(entry, &named))
				chain := do(t, c, "GET", "/v1/discovery-chain/"+url.PathEscape(named.Name), "")
				if printable := strings.TrimFunc(named.Name, func(r rune) bool { return r > ' ' && r < 127 && r != '/' && r != '.' }) == ""; printable && chain.code != 200 {
					t.Errorf("the chain of %q is %d %s", named.Name, chain.code, chain.body)
				}
			}
			if again := do(t, c, "GET", "/v1/config/"+kind, ""); again.body != list.body {
				t.Errorf("written again, %s is %s", list.body, again.body)
			}
		}
	})
}

// A filter matches or is refused, and its negation matches the rest.
func FuzzFilter(f *testing.F) {
	for _, test := range filters {
		f.Add(test.filter)
	}
	f.Fuzz(func(t *testing.T, filter string) {
		s := consultest.New()
		defer s.Close()
		for i := range 3 {
			must(t, s.Register(consultest.Service{ID: fmt.Sprint("f", i), Name: "f", Port: i, Tags: []string{"a"}[:i%2], Meta: map[string]string{"version": fmt.Sprint(i)}}))
		}
		c := &http.Client{Transport: s.Transport()}
		found := 0
		for _, filter := range []string{filter, "not (" + filter + ")"} {
			var entries []any
			got := do(t, c, "GET", filtering(filter).path, "")
			if got.code != 200 {
				return
			}
			must(t, json.Unmarshal([]byte(got.body), &entries))
			found += len(entries)
		}
		if filter != "" && found != 3 {
			t.Errorf("%q and its negation find %d of 3", filter, found)
		}
	})
}
