package bench

import (
	"slices"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// The harness of the tables works: calls over every path are answered by all three
// backends, also while one of them is slow.
func TestEveryPathAnswers(t *testing.T) {
	b := startBackends(t)
	for _, p := range slices.Concat(paths(), fivePaths(), gatewayPaths()) {
		t.Run(p.name, func(t *testing.T) {
			if why := benchkit.Absent(t, p.program); why != "" {
				t.Skip("SKIPPED, it is not compared with: " + why)
			}
			dial := p.start(t, b)
			for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
				b.slow(t, delay)
				c := dial(t)
				answers, err := untilAllAnswer(c)
				c.Close()
				if err != nil {
					t.Fatalf("one backend takes %v: %v", delay, err)
				}
				if slices.Contains(answers[:], 0) {
					t.Errorf("one backend takes %v: one of them has answered none of the calls: %v", delay, answers)
				}
			}
		})
	}
}

// untilAllAnswer calls a few hundred times. It goes on while there is a backend that
// has answered nothing, since connections are made one after the other.
func untilAllAnswer(c benchkit.Clients) (answers [benchkit.BackendCount]int, err error) {
	for range 30 {
		m, err := benchkit.Load{Calls: 10}.Run(c)
		if err != nil {
			return answers, err
		}
		for i, n := range m.Answers {
			answers[i] += n
		}
		if !slices.Contains(answers[:], 0) {
			break
		}
	}
	return answers, nil
}
