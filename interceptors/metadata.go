package interceptors

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
)

// MetadataValue is the value of a metadata key that the policy decides by, incoming on the
// server and outgoing on the client, by the rule of [caller.Value].
func MetadataValue(ctx context.Context, side Side, key string) (string, error) {
	return caller.Value(MetadataValues(ctx, side, key), key)
}

// MetadataValues are all values of a metadata key in their order, for keys that are
// lists, such as those that an answer varies by.
func MetadataValues(ctx context.Context, side Side, key string) []string {
	if side == Server {
		return metadata.ValueFromIncomingContext(ctx, key)
	}
	return metadata.ValueFromOutgoingContext(ctx, key)
}
