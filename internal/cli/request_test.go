package cli

import (
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc/metadata"
)

func TestReadRequestIsBounded(t *testing.T) {
	endless := iotest.DataErrReader(strings.NewReader(strings.Repeat(" ", maxRequest+1)))
	if _, err := readRequest(t.Context(), "-", endless); err == nil || !strings.Contains(err.Error(), "-d -: more than 16 MiB") {
		t.Errorf("got %v", err)
	}
}

func FuzzMetadata(f *testing.F) {
	for _, seed := range []string{"customer-id: ada", "Authorization:Bearer a:b", "token-bin:AAE=", "token-bin:AAE", ":x", "grpc-timeout:1S", "a:\x7f", "ä:b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pair string) {
		md, err := parseMetadata([]string{pair})
		if err != nil {
			return
		}
		for key, values := range md {
			if len(values) != 1 || key != strings.ToLower(key) || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "" {
				t.Errorf("%q is %q: %q, which gRPC does not send", pair, key, values)
			}
			again, err := parseMetadata([]string{key + ":" + printable(metadata.MD{key: values})[key][0]})
			if err != nil || again.Get(key)[0] != values[0] {
				t.Errorf("%q is %q, but printed and read again %q (%v)", pair, values[0], again.Get(key), err)
			}
		}
	})
}
