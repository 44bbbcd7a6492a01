// Package benchpeers measures whole calls of kratos and go-zero beside grpc-go, plain and
// tuned, meshlite, NGINX and HAProxy:
//
//	make bench-peers
//	make bench-peers PEERS='-runs 5 -window 3s -docs ../../docs'
//
// It is a module of its own, so that the frameworks never reach users of meshlite. Without
// -figures nothing is measured: its tests then see that every path answers.
package benchpeers

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	kratoslog "github.com/go-kratos/kratos/v2/log"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

var (
	figures = flag.Bool("figures", false, "measure, and print the table")
	runs    = flag.Int("runs", 5, "how often each path is measured, in an order that is drawn each time; medians are shown")
	window  = flag.Duration("window", 3*time.Second, "how long each path is measured each time")
	docs    = flag.String("docs", "", "directory of benchmarks.md, whose table is replaced, and of the plots")
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "CONSUL_") {
			os.Unsetenv(name)
		}
	}
	process := os.Getenv(benchkit.ProcessVariable)
	if process == "" {
		os.Exit(m.Run())
	}
	// No framework logs, nor writes to what is read by the test.
	kratoslog.SetLogger(kratoslog.NewStdLogger(io.Discard))
	logx.Disable()
	stat.DisableLog()
	run := map[string]func([]string, io.Reader, io.Writer) error{"servers": serve, "client": call}[process]
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, process+":", err)
		os.Exit(1)
	}
}
