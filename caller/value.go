package caller

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxValue is the longest value, in bytes, that a key of metadata may have. A signed token
// fits.
const maxValue = 8 << 10

// Value is the one of values that a decision may rest on: whose limit it is, whose answer,
// what a call costs, how much it matters. It is "" where the key is absent or empty, and a
// list with commas is one value, as for a handler that reads metadata.MD.Get.
//
// Of several values handlers read different ones, so nobody may choose which one counts:
// the error is INVALID_ARGUMENT and names the key. So it is for a value of more than 8 KiB.
// No error repeats a value.
func Value(values []string, key string) (string, error) {
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", status.Errorf(codes.InvalidArgument, "metadata %q has %d values: send one", key, len(values))
	case len(values[0]) > maxValue:
		return "", status.Errorf(codes.InvalidArgument, "metadata %q has %d bytes: send %d at most", key, len(values[0]), maxValue)
	default:
		return values[0], nil
	}
}
