package caller

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxValue is the longest value, in bytes, that a key of metadata may have. A signed token
// fits.
const maxValue = 8 << 10

// Value returns the only one of values, for decisions such as identity, cost and priority.
// It is "" if the key is absent or empty. A list with commas is one value, as for a handler
// that reads metadata.MD.Get.
//
// Several values are an error, since handlers differ in which one they read: it is
// INVALID_ARGUMENT and names the key. A value of more than 8 KiB is the same error. No error
// repeats a value.
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
