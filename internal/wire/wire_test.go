package wire_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPushbackIsReadAsGRPCDoes(t *testing.T) {
	for _, test := range []struct {
		values []string
		wait   time.Duration
		given  bool
	}{
		{nil, 0, false},
		{[]string{"0"}, 0, true},
		{[]string{"25"}, 25 * time.Millisecond, true},
		{[]string{"2147483647"}, 2147483647 * time.Millisecond, true},
		{[]string{"2147483648"}, -time.Millisecond, true},
		{[]string{"-1"}, -time.Millisecond, true},
		{[]string{""}, -time.Millisecond, true},
		{[]string{"soon"}, -time.Millisecond, true},
		{[]string{"5", "5"}, -time.Millisecond, true},
	} {
		wait, given := wire.Pushback(metadata.MD{wire.PushbackKey: test.values})
		if wait != test.wait || given != test.given {
			t.Errorf("%q: %v, %v; want %v, %v", test.values, wait, given, test.wait, test.given)
		}
	}
}
