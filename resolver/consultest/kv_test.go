package consultest_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func put(t *testing.T, client *api.Client, key, value string) {
	t.Helper()
	_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil)
	must(t, err)
}

func TestKV(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		kv := client.KV()
		for _, key := range []string{"a/b", "a/c", "a/d/e", "a/d/f", "z"} {
			put(t, client, key, "value of "+key)
		}
		_, err := kv.Put(&api.KVPair{Key: "flagged", Flags: 42}, nil)
		must(t, err)

		pair, meta, err := kv.Get("a/b", nil)
		must(t, err)
		if string(pair.Value) != "value of a/b" || pair.ModifyIndex != meta.LastIndex {
			t.Errorf("got %+v at %d", pair, meta.LastIndex)
		}
		if pair, _, _ := kv.Get("flagged", nil); pair.Flags != 42 || len(pair.Value) != 0 {
			t.Errorf("got %+v", pair)
		}
		if pair, _, err := kv.Get("none", nil); pair != nil || err != nil {
			t.Errorf("a missing key gave %v, %v", pair, err)
		}
		if got := do(t, c, "GET", "/v1/kv/a/b?raw", ""); got.body != "value of a/b" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("raw gave %+v", got)
		}
		keys, _, err := kv.Keys("a/", "/", nil)
		must(t, err)
		if want := []string{"a/b", "a/c", "a/d/"}; !reflect.DeepEqual(keys, want) {
			t.Errorf("keys are %v, want %v", keys, want)
		}
		pairs, _, err := kv.List("a/d", nil)
		must(t, err)
		if len(pairs) != 2 || pairs[0].Key != "a/d/e" {
			t.Errorf("list gave %v", pairs)
		}
		if _, err := kv.DeleteTree("a/d", nil); err != nil {
			t.Error(err)
		}
		if _, err := kv.Delete("a/b", nil); err != nil {
			t.Error(err)
		}
		keys, _, err = kv.Keys("", "", nil)
		must(t, err)
		if want := []string{"a/c", "flagged", "z"}; !reflect.DeepEqual(keys, want) {
			t.Errorf("left are %v, want %v", keys, want)
		}
	})
}

func TestKVCompareAndSet(t *testing.T) {
	_, client := newAgent(t)
	kv := client.KV()
	cas := func(index uint64, want bool) {
		t.Helper()
		if ok, _, err := kv.CAS(&api.KVPair{Key: "k", Value: []byte{byte(index)}, ModifyIndex: index}, nil); err != nil || ok != want {
			t.Errorf("cas %d gave %v, %v", index, ok, err)
		}
	}
	cas(5, false) // does not exist
	cas(0, true)
	cas(0, false) // does
	pair, _, err := kv.Get("k", nil)
	must(t, err)
	cas(pair.ModifyIndex, true)
	cas(pair.ModifyIndex, false) // changed since

	if ok, _, _ := kv.DeleteCAS(pair, nil); ok {
		t.Error("a stale index deleted")
	}
	pair, _, err = kv.Get("k", nil)
	must(t, err)
	if ok, _, _ := kv.DeleteCAS(pair, nil); !ok {
		t.Error("the right index did not delete")
	}
}

func TestKVBlocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := newAgent(t)
		kv := client.KV()
		put(t, client, "a", "1")
		// Each query waits for the one write that concerns it, past one that does not.
		await := func(read func(*api.QueryOptions) *api.QueryMeta, write func()) {
			t.Helper()
			before := read(nil)
			time.AfterFunc(time.Minute, func() { put(t, client, "elsewhere", time.Now().String()) })
			time.AfterFunc(2*time.Minute, write)
			start := time.Now()
			after := read(&api.QueryOptions{WaitIndex: before.LastIndex, WaitTime: 5 * time.Minute})
			if time.Since(start) != 2*time.Minute || after.LastIndex <= before.LastIndex {
				t.Errorf("returned after %v with index %d, was %d", time.Since(start), after.LastIndex, before.LastIndex)
			}
		}
		get := func(key string) func(*api.QueryOptions) *api.QueryMeta {
			return func(o *api.QueryOptions) *api.QueryMeta {
				_, meta, err := kv.Get(key, o)
				must(t, err)
				return meta
			}
		}
		list := func(o *api.QueryOptions) *api.QueryMeta {
			_, meta, err := kv.List("dir/", o)
			must(t, err)
			return meta
		}
		await(get("a"), func() { put(t, client, "a", "2") })
		await(get("new"), func() { put(t, client, "new", "1") })
		await(get("a"), func() { _, _ = kv.Delete("a", nil) })
		put(t, client, "dir/x", "1")
		await(list, func() { put(t, client, "dir/y", "1") })
		await(list, func() { _, _ = kv.Delete("dir/y", nil) })
	})
}

func TestKVRefusals(t *testing.T) {
	s, _ := newAgent(t)
	c := &http.Client{Transport: s.Transport()}
	tests := []struct {
		method, path, body string
		code               int
		text               string
	}{
		{"GET", "/v1/kv/", "", 400, "Missing key name"},
		{"PUT", "/v1/kv/", "", 400, "Missing key name"},
		{"DELETE", "/v1/kv/", "", 400, "Missing key name"},
		{"PUT", "/v1/kv/a?cas=zz", "", 500, `strconv.ParseUint: parsing "zz": invalid syntax`},
		{"PUT", "/v1/kv/a?flags=x", "", 500, `strconv.ParseUint: parsing "x": invalid syntax`},
		{"PUT", "/v1/kv/a?acquire=zz", "", 500, `raft apply failed: invalid session "zz"`},
		{"PUT", "/v1/kv/a?release=zz", "", 200, `false`},
		{"PUT", "/v1/kv/a?cas=1&acquire=2", "", 400, "Conflicting flags: acquire=2&cas=1\n"},
		{"DELETE", "/v1/kv/a?cas=1&recurse", "", 400, "Conflicting flags: cas=1&recurse=\n"},
		{"DELETE", "/v1/kv/none?cas=5", "", 200, "true"},
		{"GET", "/v1/kv/none", "", 404, ""},
		{"GET", "/v1/kv/none?keys", "", 404, ""},
		{"GET", "/v1/kv/?keys", "", 200, "[]"},
		{"GET", "/v1/kv/%20a", "", 500, "invalid key name, leading/trailing spaces are not allowed"},
		{"PUT", "/v1/kv/big", strings.Repeat("x", 512*1024+1), 413, "Request body(524289 bytes) too large, max size: 524288 bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size."},
		{"PUT", "/v1/kv/big", strings.Repeat("x", 512*1024), 200, "true"},
	}
	for _, test := range tests {
		if got := do(t, c, test.method, test.path, test.body); got.code != test.code || got.body != test.text {
			t.Errorf("%s %s: got %d %q, want %d %q", test.method, test.path, got.code, got.body, test.code, test.text)
		}
	}
}
