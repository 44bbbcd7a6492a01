package cli

import (
	"encoding/base64"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
)

// parseMetadata reads "key: value" pairs. The value of a key that ends in "-bin"
// is base64.
func parseMetadata(pairs []string) (metadata.MD, error) {
	md := metadata.MD{}
	for i, pair := range pairs {
		key, value, found := strings.Cut(pair, ":")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if !found || key == "" {
			// Not repeated: it may be a token.
			return nil, Usagef("--metadata: number %d has no key before a colon: write key:value", i+1)
		}
		if !caller.ValidKey(key) {
			return nil, Usagef("--metadata key %q: write letters, digits and _-. only", key)
		}
		if strings.HasPrefix(key, "grpc-") {
			return nil, Usagef("--metadata key %q: names that begin with grpc- belong to gRPC itself: write another", key)
		}
		value, err := metadataValue(key, value)
		if err != nil {
			return nil, err
		}
		md.Append(key, value)
	}
	return md, nil
}

// metadataValue never repeats the value in an error: it may be a token.
func metadataValue(key, value string) (string, error) {
	if strings.HasSuffix(key, "-bin") {
		bytes, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if err != nil {
			return "", Usagef("--metadata %s: the value of a -bin key must be base64: %w", key, err)
		}
		return string(bytes), nil
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return "", Usagef("--metadata %s: the value has a byte that is not printable ASCII: take a key that ends in -bin, with base64", key)
		}
	}
	return value, nil
}

// printable is metadata for JSON, where -bin values are base64.
func printable(md metadata.MD) map[string][]string {
	shown := map[string][]string{}
	for key, values := range md {
		for _, value := range values {
			if strings.HasSuffix(key, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			shown[key] = append(shown[key], value)
		}
	}
	return shown
}
