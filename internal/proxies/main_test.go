// Package proxies holds the tests of deploy/nginx and deploy/haproxy: it runs Debian's NGINX
// and HAProxy with the very files that are there, between callers and processes that are
// registered in a real Consul, and kills some of these. Of the gateway it holds those that need
// processes, too.
package proxies

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(backendVariable) != "" {
		err := beBackend()
		if err == nil {
			os.Exit(0)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
