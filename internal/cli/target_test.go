package cli

import (
	"strings"
	"testing"
)

// Case X12 (echo)
func TestCheckTarget(t *testing.T) {
	for _, target := range []string{
		"consul:///catalog", "consul://127.0.0.1:8500/catalog?policy=grpc:round_robin&tag=a&tag=b", "dns:///a:1", "dns:a:1",
		"passthrough:///a:1", "unix:/tmp/socket", "127.0.0.1:80", "localhost:80", "[::1]:80", "catalog.example:65535",
	} {
		if err := checkTarget(target); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, target := range []string{
		"", "catalog", "consul", "consul:", "consul:///", "consul:///a/b", "consul://a/b", "http://a:1", "consl:///catalog",
		"consl:/catalog", "a:", "a:0", "a:65536", "::1:80", "https://a.example/catalog",
		"u:hunter2@a:1", "dns:///u:hunter2@a:1", "dns://u:hunter2@a/b:1", "http://u:hunter2@a", "consul://u:hunter2@a:1/b", "u:hunter2@a",
	} {
		if err := checkTarget(target); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q passes, or its password is repeated: %v", target, err)
		}
	}
}
