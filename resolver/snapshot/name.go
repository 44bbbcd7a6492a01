package snapshot

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	// mostReadable is how much of a service's name is in the name of its file,
	// hashDigits how much of the hash that tells the files apart.
	mostReadable, hashDigits = 64, 32
	extension                = ".json"
	// tempPattern is the name of what is being written, as of [os.CreateTemp].
	tempPattern = ".meshlite-snapshot-*.tmp"
)

// fileName is <service>-<hash>.json.
func fileName(directory string, q catalog.Query) string {
	sum := sha256.Sum256([]byte(directory + "\x00" + q.Key()))
	return readable(q.Service) + "-" + hex.EncodeToString(sum[:])[:hashDigits] + extension
}

// readable makes of a service's name what every file system takes, and no shell
// takes for an option.
func readable(service string) string {
	service = service[:min(len(service), mostReadable)]
	return cmp.Or(strings.Trim(strings.Map(plain, service), "-"), "service")
}

func plain(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_':
		return r
	default:
		return '-'
	}
}

// isFileName tells snapshots from what else lies in the folder.
func isFileName(name string) bool {
	name, ok := strings.CutSuffix(name, extension)
	if !ok || len(name) <= hashDigits+1 {
		return false
	}
	service, hash := name[:len(name)-hashDigits], name[len(name)-hashDigits:]
	return strings.HasSuffix(service, "-") && strings.Trim(hash, "0123456789abcdef") == ""
}

func isTempName(name string) bool {
	before, after, _ := strings.Cut(tempPattern, "*")
	return strings.HasPrefix(name, before) && strings.HasSuffix(name, after)
}
