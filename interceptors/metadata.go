package interceptors

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxMetadataValue is the longest value, in bytes, that a key of the policy may have. A
// signed token fits.
const maxMetadataValue = 8 << 10

// MetadataValue is the value of a metadata key that the policy decides by: whose limit
// it is, whose answer, what a call costs, how much it matters. It reads incoming metadata
// on the server and outgoing on the client, as a handler does with metadata.MD.Get: in
// any case, decoded if the key ends in "-bin", a list with commas as one value. It is ""
// where the key is absent or empty.
//
// Of several values handlers read different ones, so nobody may choose which one counts:
// the error is INVALID_ARGUMENT and names the key. So it is for a value of more than
// 8 KiB. No error repeats a value.
func MetadataValue(ctx context.Context, side Side, key string) (string, error) {
	switch values := MetadataValues(ctx, side, key); {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", status.Errorf(codes.InvalidArgument, "metadata %q has %d values: send one", key, len(values))
	case len(values[0]) > maxMetadataValue:
		return "", status.Errorf(codes.InvalidArgument, "metadata %q has %d bytes: send %d at most", key, len(values[0]), maxMetadataValue)
	default:
		return values[0], nil
	}
}

// MetadataValues are all values of a metadata key in their order, for keys that are
// lists, such as those that an answer varies by.
func MetadataValues(ctx context.Context, side Side, key string) []string {
	if side == Server {
		return metadata.ValueFromIncomingContext(ctx, key)
	}
	return metadata.ValueFromOutgoingContext(ctx, key)
}
