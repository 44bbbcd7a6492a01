// Package snapshot keeps the last good answers of the directory on disk, so that
// a client starts while Consul is down.
//
// There is one file for each directory and query, readable JSON with a checksum.
// A file that is damaged, or is the answer of another directory or to another
// question, is refused by an error that names it. Processes of one user can share
// a folder.
//
//	snapshots, err := snapshot.Open("/var/lib/storefront/snapshots")
//	options := resolver.DialOptions(directory, resolver.WithSnapshots(snapshots))
//
// The checksum tells damage, not forgery: who can write into the folder can say
// where calls go. The files hold addresses and metadata, and no token.
package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Dir is a folder of snapshots; of one folder it is always the same value. It is
// safe for concurrent use, also by several processes, and needs no closing.
type Dir struct {
	path string // absolute, so that it stays when the process changes its folder
}

// Open takes dir for snapshots, makes it with mode 0700 if there is none, and
// removes what a crash has left half written there more than an hour ago. An
// error says why dir cannot be used.
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

// Load is what was saved last for q at a directory: a zero Snapshot if there is
// nothing, an error that says why what is there cannot be used. What it gives was
// checked as input is: it has at least one instance, and each can be called.
func (d Dir) Load(directory string, q catalog.Query) (catalog.Snapshot, error) {
	path := d.file(directory, q)
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return catalog.Snapshot{}, nil
	}
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("snapshot %s cannot be read: %w", path, err)
	}
	s, err := decode(data, directory, q.Key())
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("snapshot %s cannot be used, remove it or let the next answer replace it: %w", path, err)
	}
	// It is in use: others go first. Where that cannot be noted, it is not kept as long.
	_ = os.Chtimes(path, time.Time{}, time.Now())
	return s, nil
}

// Save replaces what was saved for q at a directory, whole or not at all, and
// returns once it is on disk. An empty s is not saved, and is no error: the last
// instances are what a start without the directory needs. [catalog.Snapshot.Hint]
// is not kept. Of more than 1024 snapshots, those that were neither saved nor
// loaded for longest are removed. An s that could not be loaded again is an error
// and leaves what was saved before.
func (d Dir) Save(directory string, q catalog.Query, s catalog.Snapshot) error {
	if len(s.Instances) == 0 {
		return nil
	}
	path := d.file(directory, q)
	data, err := encode(directory, q.Key(), s)
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
	if err := d.forgetOldest(filepath.Base(path)); err != nil {
		return fmt.Errorf("old snapshots in %s cannot be removed: %w", d.path, err)
	}
	return nil
}

func (d Dir) file(directory string, q catalog.Query) string {
	return filepath.Join(d.path, fileName(directory, q))
}
