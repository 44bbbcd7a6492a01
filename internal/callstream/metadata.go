package callstream

import (
	"strings"

	"google.golang.org/grpc/metadata"

	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

// reserved reports whether gRPC keeps a key to itself, and would not send it.
func reserved(key string) bool {
	switch key {
	case "content-type", "user-agent", "grpc-message-type", "grpc-encoding", "grpc-message",
		"grpc-status", "grpc-timeout", "grpc-status-details-bin", "te":
		return true
	}
	return key == "" || strings.HasPrefix(key, ":")
}

// carried reports whether a call with md can go over a stream: it is not larger than a call
// should be, and gRPC has nothing against it.
func carried(md metadata.MD) bool {
	size := 0
	for key, values := range md {
		for _, v := range values {
			if size += len(key) + len(v) + 2; !strings.HasSuffix(key, "-bin") && !printable(v) {
				return false
			}
		}
	}
	return size <= maxMetadata
}

func encode(md metadata.MD) []*callv1.Metadata {
	if len(md) == 0 {
		return nil
	}
	all := make([]*callv1.Metadata, 0, len(md))
	for key, values := range md {
		if reserved(key) {
			continue
		}
		m := &callv1.Metadata{Key: key, Values: make([][]byte, len(values))}
		for i, v := range values {
			m.Values[i] = []byte(v)
		}
		all = append(all, m)
	}
	return all
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// decode sets the keys of all in md, and returns how large they are, which is at
// least one for each entry.
func decode(md metadata.MD, all []*callv1.Metadata) (size int) {
	for _, m := range all {
		key := strings.ToLower(m.GetKey())
		size += len(key) + 1
		if reserved(key) {
			continue
		}
		values := make([]string, len(m.GetValues()))
		for i, v := range m.GetValues() {
			values[i] = string(v)
			size += len(v) + 1
		}
		md[key] = append(md[key][:0:0], values...)
	}
	return size
}
