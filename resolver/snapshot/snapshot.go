// Package snapshot stores the last good answers of the directory on disk, so that a client
// can start while Consul is down.
//
// There is one file for each directory and query, and one for each discovery chain: JSON with a
// checksum. A file that is damaged, or belongs to another directory or query, is rejected with an
// error that names it. Processes of one user can share a folder.
//
//	snapshots, err := snapshot.Open("/var/lib/storefront/snapshots")
//	options := resolver.DialOptions(directory, resolver.WithSnapshots(snapshots))
//
// The checksum detects damage, not forgery: write access to the folder decides where calls
// go. The files contain addresses and metadata, and no token.
package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Dir is a folder of snapshots. Values for the same folder are equal. It is safe for
// concurrent use, also by several processes, and is not closed.
type Dir struct {
	path string // absolute, so that a change of the working directory has no effect
}

// Open uses dir for snapshots. It creates dir with mode 0700 if it does not exist, and removes
// temporary files older than an hour that a crash has left. An error says why dir cannot
// be used.
func Open(dir string) (Dir, error) {
	if dir == "" {
		return Dir{}, errors.New(`the folder for snapshots is "": name one that outlives the process`)
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return Dir{}, fmt.Errorf("the folder for snapshots %q: %w", dir, err)
	}
	if err := prepare(path); err != nil {
		return Dir{}, fmt.Errorf("the folder for snapshots %s cannot be used: give one that this process may write to: %w", path, err)
	}
	return Dir{path: path}, nil
}

// Load returns what was saved last for q at a directory, a zero Snapshot if there is nothing,
// or an error that says why the file cannot be used. The result is validated: it has at
// least one instance, and each can be called.
func (d Dir) Load(directory string, q catalog.Query) (catalog.Snapshot, error) {
	return load(d.file(directory, q), func(data []byte) (catalog.Snapshot, error) { return decode(data, directory, q.Key()) })
}

// load returns what decode makes of a file; zero if there is none.
func load[T any](path string, decode func([]byte) (T, error)) (T, error) {
	var none T
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("snapshot %s cannot be read: %w", path, err)
	}
	loaded, err := decode(data)
	if err != nil {
		return none, fmt.Errorf("snapshot %s cannot be used, remove it or let the next answer replace it: %w", path, err)
	}
	// Others are evicted first. If this fails, only the order of eviction suffers.
	_ = os.Chtimes(path, time.Time{}, time.Now())
	return loaded, nil
}

// Save atomically replaces what was saved for q at a directory, and returns once it is on disk.
// An empty s is not saved, without an error: a start without the directory needs the last
// instances. [catalog.Snapshot.Hint] is not saved. Beyond 1024 snapshots the least recently
// used are removed. An s that could not be loaded again is an error, and what was saved
// before stays.
func (d Dir) Save(directory string, q catalog.Query, s catalog.Snapshot) error {
	if len(s.Instances) == 0 {
		return nil
	}
	data, err := encode(directory, q.Key(), s)
	return d.save(d.file(directory, q), data, err)
}

// save replaces a file by data, unless that could not be made.
func (d Dir) save(path string, data []byte, err error) error {
	if err != nil {
		return fmt.Errorf("snapshot %s cannot be saved: %w", path, err)
	}
	_, missing := os.Lstat(path)
	if err := replace(path, data); err != nil {
		return fmt.Errorf("snapshot %s cannot be saved: %w", path, err)
	}
	if missing == nil {
		return nil
	}
	if err := d.evict(filepath.Base(path)); err != nil {
		return fmt.Errorf("old snapshots in %s cannot be removed: %w", d.path, err)
	}
	return nil
}

func (d Dir) file(directory string, q catalog.Query) string {
	return filepath.Join(d.path, fileName(q.Service, directory, q.Key()))
}

const (
	maxFiles = 1024
	// staleAfter is the age at which a temporary file has no writer any more.
	staleAfter = time.Hour
)

// prepare creates the folder, checks that it can be written to, and removes stale files.
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

// removeStale removes the temporary files of writers that crashed. A failure to do so is
// ignored.
func removeStale(path string) {
	temps, _ := list(path, isTempName)
	temps = slices.DeleteFunc(temps, func(i fs.FileInfo) bool { return time.Since(i.ModTime()) < staleAfter })
	_ = remove(path, temps)
}

// evict removes the least recently used files beyond maxFiles, but not the one just written.
func (d Dir) evict(written string) error {
	others, err := list(d.path, func(name string) bool { return name != written && isFileName(name) })
	if err != nil || len(others) < maxFiles {
		return err
	}
	slices.SortFunc(others, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	return remove(d.path, others[:len(others)-maxFiles+1])
}

// list returns the regular files of a folder whose names are wanted. Another process may
// remove some meanwhile.
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
