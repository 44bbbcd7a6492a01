package child

import (
	"bytes"
	"strings"
	"sync"
)

// maxTail is how much of what a process writes is kept.
const maxTail = 16 << 10

// Tail keeps the end of what is written to it. It is safe for concurrent use.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

// Write keeps p, and forgets from the front what becomes too much.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - maxTail; over > maxTail {
		// Only now and then, so that a chatty process costs no copying.
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// Last are the last n lines.
func (t *Tail) Last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(string(bytes.TrimRight(t.text, "\n")), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
