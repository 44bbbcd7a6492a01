package snapshot

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const (
	// A file name has the first bytes of the service's name, and as many digits of a hash.
	maxNameBytes, hashDigits = 64, 32
	extension                = ".json"
	// tempPattern is the name of a file that is being written, for [os.CreateTemp].
	tempPattern = ".meshlite-snapshot-*.tmp"
)

// fileName is <service>-<hash>.json. The key is unique to what the file answers.
func fileName(service, directory, key string) string {
	sum := sha256.Sum256([]byte(directory + "\x00" + key))
	return readable(service) + "-" + hex.EncodeToString(sum[:])[:hashDigits] + extension
}

// readable turns a service's name into one that every file system accepts, and that no
// command takes for an option.
func readable(service string) string {
	service = service[:min(len(service), maxNameBytes)]
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

// isFileName reports whether name is that of a snapshot.
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

// read reads a regular file of up to maxBytes. It follows no symbolic link, and opens no file
// that could block.
func read(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is %s, want a regular file: remove it", kind(info.Mode()))
	}
	if info.Size() > maxBytes {
		return nil, fmt.Errorf("it has %d bytes, want at most %d: remove it", info.Size(), maxBytes)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBytes)) // it may have grown
}

func kind(mode os.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&os.ModeSymlink != 0:
		return "a symbolic link"
	default:
		return "a special file (" + mode.String() + ")"
	}
}

// replace writes data to path atomically: a reader, and a process that starts after a crash,
// finds the old content or the new one.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern) // with mode 0600
	if err != nil {
		return err
	}
	err = fill(f, data)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func fill(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync() // before the rename, which could reach the disk first
	}
	return errors.Join(err, f.Close())
}

// syncDir flushes a rename to the disk, where the file system supports that.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
