package snapshot_test

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// A folder in which no file can be made is refused when it is opened, also to root.
func TestFolderThatTakesNoFilesIsRefusedWhenOpened(t *testing.T) {
	const dir = "/proc/self"
	if _, err := os.Stat(dir); runtime.GOOS != "linux" || err != nil {
		t.Skip("SKIPPED: there is no folder that takes no files of root's")
	}
	if _, err := snapshot.Open(dir); err == nil || !strings.Contains(err.Error(), dir+" cannot be used: give one that this process may write to: ") {
		t.Errorf("got %v, want the folder refused", err)
	}
}
