package snapshot

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	mostFiles = 1024
	// staleAfter is when a temporary file has no writer any more.
	staleAfter = time.Hour
)

// prepare makes the folder, shows that it can be written to, and tidies it.
func prepare(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(path, tempPattern)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return err
	}
	removeStale(path)
	return nil
}

// removeStale removes what writers have left that ended before they were done. No
// start fails because of what cannot be removed.
func removeStale(path string) {
	temps, _ := list(path, isTempName)
	temps = slices.DeleteFunc(temps, func(i fs.FileInfo) bool { return time.Since(i.ModTime()) < staleAfter })
	_ = remove(path, temps)
}

// forgetOldest keeps the number of files bounded, and the one just written.
func (d Dir) forgetOldest(written string) error {
	others, err := list(d.path, func(name string) bool { return name != written && isFileName(name) })
	if err != nil || len(others) < mostFiles {
		return err
	}
	slices.SortFunc(others, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	return remove(d.path, others[:len(others)-mostFiles+1])
}

// list gives the regular files of a folder whose names are wanted. Another process
// may remove some of them meanwhile.
func list(path string, wanted func(name string) bool) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(path)
	var infos []fs.FileInfo
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !wanted(entry.Name()) {
			continue
		}
		if info, err := entry.Info(); err == nil {
			infos = append(infos, info)
		}
	}
	return infos, err
}

func remove(path string, infos []fs.FileInfo) error {
	var failed []error
	for _, info := range infos {
		if err := os.Remove(filepath.Join(path, info.Name())); !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
