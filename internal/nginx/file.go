package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
)

// File is a file that NGINX includes. It is not safe for concurrent use.
type File struct {
	Path string
	// Check is a command of the shell, such as "nginx -t", that fails if the configuration
	// is wrong. Empty is none.
	Check string
	// Reload is a command of the shell, such as "nginx -s reload". PIDFile is the file with
	// the process id of NGINX's master, which is sent SIGHUP. Both empty is no reload.
	Reload, PIDFile string

	pending bool // the file has changed, and NGINX was not reloaded since
}

// Apply replaces the file by text, validates the configuration and reloads NGINX. It does
// nothing if the file has this text already and was reloaded. If the check fails, what stood
// there before is put back. After a failed reload the next call tries again. A check or reload
// that has begun is not cancelled by ctx; it has 30 s.
func (f *File) Apply(ctx context.Context, text string) (changed bool, err error) {
	before, err := os.ReadFile(f.Path)
	existed := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("--out %q: %w", f.Path, err)
	}
	if !existed || string(before) != text {
		if err := f.write(text); err != nil {
			return false, err
		}
		if err := f.run(ctx, "--check", f.Check); err != nil {
			return false, errors.Join(err, f.putBack(existed, before))
		}
		changed, f.pending = true, true
	}
	if !f.pending {
		return false, nil
	}
	if err := f.reload(ctx); err != nil {
		return changed, err
	}
	f.pending = false
	return changed, nil
}

// Exists reports whether there is such a file.
func (f *File) Exists() bool {
	_, err := os.Stat(f.Path)
	return err == nil
}

// write replaces the file by a rename, so that NGINX reads the old text or the new one. The
// name of the temporary file matches no include of *.conf.
func (f *File) write(text string) error {
	temporary, err := os.CreateTemp(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+".*")
	if err != nil {
		return fmt.Errorf("--out %q: %w", f.Path, err)
	}
	_, err = temporary.WriteString(text)
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), f.Path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("--out %q: %w", f.Path, err), os.Remove(temporary.Name()))
	}
	return nil
}

func (f *File) putBack(existed bool, before []byte) error {
	if existed {
		return f.write(string(before))
	}
	return os.Remove(f.Path)
}

func (f *File) reload(ctx context.Context) error {
	if f.PIDFile == "" {
		return f.run(ctx, "--reload", f.Reload)
	}
	text, err := os.ReadFile(f.PIDFile)
	if err != nil {
		return fmt.Errorf("--pid-file: %w: is NGINX running?", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("--pid-file %q holds %.40q: name the file of NGINX's pid directive", f.PIDFile, text)
	}
	nginx, err := os.FindProcess(pid)
	if err == nil {
		err = nginx.Signal(syscall.SIGHUP)
	}
	if err != nil {
		return fmt.Errorf("--pid-file %q: process %d: %w: is NGINX running?", f.PIDFile, pid, err)
	}
	return nil
}

const commandTimeout = 30 * time.Second

// run runs a command of the shell; an empty one succeeds. The error has the last line that it
// wrote.
func (f *File) run(ctx context.Context, flag, command string) error {
	if command == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	tail := &child.Tail{}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.SysProcAttr = child.OwnGroup() // ctrl-C must not end a reload halfway
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", flag, command, err, bytes.TrimSpace([]byte(tail.Last(3))))
	}
	return nil
}
