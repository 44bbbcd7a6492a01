package retry_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/interceptors/retry"
)

// Whatever a server writes into the trailer, a call is tried again only when it
// is a plain number, and never beyond its deadline.
func FuzzPushback(f *testing.F) {
	for _, value := range []string{"0", "1", "-1", "", "soon", "+5", "1e3", " 1", "4294967296", "2147483648"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		b := newBackend(t, attempts(2), reply{failed(codes.Unavailable).err, []string{value}, 0})
		_ = b.call(ctx)
		ms, err := strconv.ParseUint(value, 10, 31)
		switch verdict := b.observed[0].Verdict; {
		case err != nil && verdict != retry.Refused:
			t.Errorf("%q: %s, want it refused", value, verdict)
		case err == nil && (verdict == retry.Refused || ms > 1 && verdict != retry.Late):
			t.Errorf("%q: %s", value, verdict)
		}
	})
}
