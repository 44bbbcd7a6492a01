package redistest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// Each runs test with each kind of Redis: miniredis, a redis-server, one that speaks RESP2,
// one on a socket, and a cluster.
func Each(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("miniredis", func(t *testing.T) { test(t, "redis://"+miniredis.RunT(t).Addr()) })
	t.Run("redis-server", func(t *testing.T) { test(t, Start(t).URL()) })
	t.Run("RESP2", func(t *testing.T) { test(t, Start(t).URL()+"?protocol=2") })
	t.Run("unix", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "") // the path of a socket must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		path := filepath.Join(dir, "s")
		Start(t, "--unixsocket", path)
		Await(t, "socket", func() bool { _, err := os.Stat(path); return err == nil })
		test(t, "unix://"+path)
	})
	t.Run("cluster", func(t *testing.T) { test(t, Cluster(t, 2)[0].URL()) })
}
