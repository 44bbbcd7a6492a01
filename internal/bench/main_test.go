// Package bench prints what a call costs here beside what it costs elsewhere, and the
// aim beside each figure: picks against grpc-go's policies, and whole calls, with a
// slow backend among three, against grpc-go, NGINX and HAProxy.
//
//	make bench
//	make bench BENCH='-runs 5 -window 2s'
//
// Without -figures nothing is measured: its tests then see that every path that is
// measured answers, so that the tables can be made on the day they are needed.
package bench

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

var (
	figures = flag.Bool("figures", false, "measure, and print the tables")
	runs    = flag.Int("runs", 3, "how often each path is measured, in turn; the median is shown")
	window  = flag.Duration("window", 1500*time.Millisecond, "how long each path is measured each time")
)

func TestMain(m *testing.M) {
	if name := os.Getenv(benchkit.ProcessVariable); name != "" {
		if err := processes[name](os.Args[1:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		return
	}
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "CONSUL_") {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// onlyForFigures leaves out of `make test` what takes minutes and proves nothing.
func onlyForFigures(t *testing.T) {
	t.Helper()
	if !*figures {
		t.Skip("it measures: run `make bench`")
	}
	if *runs < 1 || *window <= 0 {
		t.Fatalf("-runs %d -window %v: write at least 1 run and a window above 0", *runs, *window)
	}
}
