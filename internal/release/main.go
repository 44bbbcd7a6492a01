// Command release builds what a release consists of into a folder: an archive of all programs
// for each platform, and the checksums of whatever is in the folder. The same commit gives the
// same bytes, wherever and whenever it is built: paths are trimmed, no C compiler takes part,
// and all times are that of the commit. The Go tool stamps the version of the commit's tag into
// the programs.
//
//	go run ./internal/release -out .bin/release
package main

import (
	"archive/tar"
	"archive/zip"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// platforms are what a release is built for.
var platforms = []platform{
	{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"},
}

// programs are the folders below cmd that a release has.
var programs = []string{"meshlite", "gateway", "catalog", "inventory", "storefront"}

func main() {
	var r release
	flag.StringVar(&r.out, "out", ".bin/release", "folder to build into")
	flag.StringVar(&r.version, "version", "", "of the archives' names. Default: git describe")
	only := flag.String("only", "", "platforms to build for, such as linux/amd64,darwin/arm64. Default: all")
	sums := flag.Bool("sums", false, "write the checksums of what is in the folder, and build nothing")
	bill := flag.String("licences", "", "check the licences in this SBOM, and build nothing")
	flag.Parse()
	do := func() error { return r.build(*only) }
	if *sums {
		do = r.sums
	}
	if *bill != "" {
		do = func() error { return checkLicences(*bill) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// release is one build of the tree in the current folder.
type release struct {
	out, version string
	at           time.Time // of the commit
}

func (r *release) build(only string) error {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	if r.version = cmp.Or(r.version, git("describe", "--tags", "--always", "--dirty")); r.version == "" {
		return fmt.Errorf("no version: build in a git checkout, or give -version v1.2.3")
	}
	r.at = commitTime()
	for _, p := range chosen {
		fmt.Println("building for", p)
		if err := r.archive(p); err != nil {
			return fmt.Errorf("%v: %w", p, err)
		}
	}
	return nil
}

func choose(only string) ([]platform, error) {
	if only == "" {
		return platforms, nil
	}
	var chosen []platform
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(platforms, func(p platform) bool { return p.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %q is not among %v", name, platforms)
		}
		chosen = append(chosen, platforms[i])
	}
	return chosen, nil
}

// commitTime is SOURCE_DATE_EPOCH, else the time of the commit, else the start of 1980, before
// which a zip archive cannot have a time.
func commitTime() time.Time {
	for _, text := range []string{os.Getenv("SOURCE_DATE_EPOCH"), git("log", "-1", "--format=%ct")} {
		if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
			return time.Unix(seconds, 0).UTC()
		}
	}
	return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
}

func git(args ...string) string {
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// archive builds the programs for p, beside each other in out, and packs them.
func (r *release) archive(p platform) error {
	name := fmt.Sprintf("meshlite_%s_%s_%s", strings.TrimPrefix(r.version, "v"), p.os, p.arch)
	dir := filepath.Join(r.out, p.os+"_"+p.arch)
	if err := compile(dir, p, programs); err != nil {
		return err
	}
	files := []string{"LICENSE", "README.md", "CHANGELOG.md"}
	for _, program := range programs {
		path := filepath.Join(dir, program+suffix(p))
		if err := checkStamp(path, git("rev-parse", "HEAD")); err != nil {
			return err
		}
		files = append(files, path)
	}
	if p.os == "windows" {
		return write(filepath.Join(r.out, name+".zip"), func(w io.Writer) error { return packZip(w, files, r.at) })
	}
	return write(filepath.Join(r.out, name+".tar.gz"), func(w io.Writer) error { return packTar(w, files, r.at) })
}

// checkStamp returns an error unless the Go tool has stamped the commit into a program, without
// changes to it. Without a commit there is nothing to stamp.
func checkStamp(path, commit string) error {
	if commit == "" {
		return nil
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	stamp := map[string]string{}
	for _, s := range info.Settings {
		stamp[s.Key] = s.Value
	}
	if stamp["vcs.revision"] != commit || stamp["vcs.modified"] != "false" {
		return fmt.Errorf("%s has the commit %q, modified %q, want an unmodified %s: build in a clone, and not in a worktree or among changes",
			path, stamp["vcs.revision"], stamp["vcs.modified"], commit)
	}
	return nil
}

func suffix(p platform) string {
	if p.os == "windows" {
		return ".exe"
	}
	return ""
}

// compile builds programs for p into dir.
func compile(dir string, p platform, programs []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=auto", "-ldflags=-s -w -buildid=", "-o", dir + string(filepath.Separator)}
	for _, program := range programs {
		args = append(args, "./cmd/"+program)
	}
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0", "GOOS="+p.os, "GOARCH="+p.arch)
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	return build.Run()
}

func write(path string, content func(io.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, f.Close()) }()
	return content(f)
}

// packTar writes files with nothing of who packed them, and when.
func packTar(w io.Writer, files []string, at time.Time) error {
	compressed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressed)
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: filepath.Base(path), Mode: mode(path), Size: int64(len(content)), ModTime: at, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return cmp.Or(archive.Close(), compressed.Close())
}

func packZip(w io.Writer, files []string, at time.Time) error {
	archive := zip.NewWriter(w)
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		header := &zip.FileHeader{Name: filepath.Base(path), Method: zip.Deflate, Modified: at}
		header.SetMode(os.FileMode(mode(path)))
		file, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := file.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// mode is that of a program, or of a text beside it.
func mode(path string) int64 {
	if filepath.Dir(path) == "." {
		return 0o644
	}
	return 0o755
}

// sums writes checksums.txt, as `sha256sum -c` reads it.
func (r *release) sums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	return write(filepath.Join(r.out, "checksums.txt"), func(w io.Writer) error {
		for _, e := range entries {
			if e.IsDir() || e.Name() == "checksums.txt" {
				continue
			}
			content, err := os.ReadFile(filepath.Join(r.out, e.Name()))
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%x  %s\n", sha256.Sum256(content), e.Name()); err != nil {
				return err
			}
		}
		return nil
	})
}
