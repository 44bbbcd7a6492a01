package balancer

import (
	"testing"
	"unsafe"
)

// What every pick touches of an endpoint is one cache line: nothing before or after it shares
// the line, and none of it is on the next.
func TestAPickTouchesOneLineOfAnEndpoint(t *testing.T) {
	const line = 64
	var e Endpoint
	first, last := unsafe.Offsetof(e.picked), unsafe.Offsetof(e.impaired)
	if first%line != 0 || last >= first+line || unsafe.Offsetof(e.ignored) < first+line {
		t.Errorf("the line begins at %d and ends at %d, what follows at %d: want one of %d", first, last, unsafe.Offsetof(e.ignored), line)
	}
	// The allocator has a size for each multiple of a line up to 512 bytes; larger ones have a
	// header before them.
	if size := unsafe.Sizeof(e); size%line != 0 || size > 512 {
		t.Errorf("an endpoint has %d bytes, want a multiple of %d and 512 at most", size, line)
	}
}
