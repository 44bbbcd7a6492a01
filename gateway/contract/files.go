package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Files reads descriptor sets in binary form, as `buf build -o FILE.binpb` and
// `protoc --include_imports --include_source_info --descriptor_set_out=FILE` write them.
// Together they are one contract. Comments are kept. [Watch] reads them again within a
// second of a change.
func Files(paths ...string) Source { return files(paths) }

type files []string

func (paths files) Load(ctx context.Context) (*Contract, error) {
	if len(paths) == 0 {
		return nil, errors.New("no descriptor set file is named")
	}
	set, left := &descriptorpb.FileDescriptorSet{}, int64(MaxBytes)
	from := map[string]origin{}
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		read, err := readSet(path, &left)
		if err != nil {
			return nil, err
		}
		for _, file := range read.File {
			before, again := from[file.GetName()]
			switch {
			case !again:
				from[file.GetName()] = origin{path, file}
				set.File = append(set.File, file)
			case !strings.HasPrefix(file.GetName(), "google/") && !sameFile(before.file, file):
				return nil, fmt.Errorf("%s differs in %s and %s: build both from the same sources", file.GetName(), before.path, path)
			}
		}
	}
	loaded, err := New(set)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(paths, ", "), err)
	}
	return loaded, nil
}

type origin struct {
	path string
	file *descriptorpb.FileDescriptorProto
}

// readSet reads one file of at most left bytes, which it counts down.
func readSet(path string, left *int64) (*descriptorpb.FileDescriptorSet, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, *left+1))
	if err != nil {
		return nil, err
	}
	if *left -= int64(len(text)); *left < 0 {
		return nil, fmt.Errorf("%s: %w", path, errTooLarge)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(text, set); err != nil || len(set.File) == 0 {
		return nil, fmt.Errorf("%s is no descriptor set: write one by `buf build -o FILE.binpb`, or `protoc --include_imports --descriptor_set_out=FILE`", path)
	}
	return set, nil
}

// version changes when a file does.
func (paths files) version() string {
	var version strings.Builder
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&version, "%v;", err)
			continue
		}
		fmt.Fprintf(&version, "%d %d;", info.ModTime().UnixNano(), info.Size())
	}
	return version.String()
}
