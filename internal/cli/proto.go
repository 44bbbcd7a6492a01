package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// policyPath is what an import statement names.
const policyPath = "meshlite/policy/v1/policy.proto"

// ProtoOptions are those of [Proto].
type ProtoOptions struct {
	Dir    string // root of the user's proto files; empty prints
	Force  bool   // overwrite another file
	Format Format
}

// Proto prints the call policy's contract, or writes it below a folder where a
// user's contract can import it.
func Proto(o ProtoOptions, out io.Writer) error {
	switch {
	case o.Dir == "" && o.Force:
		return Usagef("--force without --dir: name the folder to write to by --dir")
	case o.Dir == "" && o.Format == JSON:
		return WriteJSON(out, map[string]string{"path": policyPath, "source": policyv1.Source})
	case o.Dir == "":
		_, err := io.WriteString(out, policyv1.Source)
		return err
	}
	path := filepath.Join(o.Dir, filepath.FromSlash(policyPath))
	written, err := writeProto(path, o.Force)
	if err != nil {
		return err
	}
	if o.Format == JSON {
		return WriteJSON(out, map[string]any{"path": path, "written": written})
	}
	done := "is there already"
	if written {
		done = "written"
	}
	_, err = fmt.Fprintf(out, "%s %s: import \"%s\" and leave it out of generation, its Go code is in meshlite\n", path, done, policyPath)
	return err
}

// writeProto reports whether there was anything to write.
func writeProto(path string, force bool) (bool, error) {
	before, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(before, []byte(policyv1.Source)):
		return false, nil
	case err == nil && !force:
		return false, fmt.Errorf("%s is another file or version: --force overwrites it", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("--dir: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("--dir: %w", err)
	}
	if err := os.WriteFile(path, []byte(policyv1.Source), 0o644); err != nil {
		return false, fmt.Errorf("--dir: %w", err)
	}
	return true, nil
}
