package snapshot

import "testing"

// Whatever a file holds, decoding it does not panic, and a chain that it gives matches calls.
func FuzzDecodeChain(f *testing.F) {
	f.Add([]byte(`{"directory":"d","service":"s","chain":{"service":"s","routes":[{"name":"default","arms":[{"name":"v1","weight":100,"target":"a"}]}],"targets":{"a":{"id":"a","service":"s","datacenter":"dc1"}}}}`))
	f.Add([]byte(`{"directory":"d","service":"s","chain":{"service":"s","routes":[null],"targets":{"a":null}}}`))
	f.Add([]byte(`{"directory":"d","service":"s","chain":{"service":"s","routes":[{"arms":[null]}]}}`))
	f.Fuzz(func(t *testing.T, inner []byte) {
		data, err := seal(inner)
		if err != nil {
			return // it is not JSON
		}
		chain, err := decodeChain(data, "d", "s", "")
		if err != nil {
			return
		}
		if r, _ := chain.Match("/a.B/C", nil); r == nil {
			t.Errorf("%s: no route matches", inner)
		}
	})
}
