package reflectcall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// FileOptions name files with contracts.
type FileOptions struct {
	Protos []string // .proto sources
	// ImportPaths are the folders in which sources and their imports are looked for.
	// Without any it is the folder above the package of each source, and the current one.
	ImportPaths    []string
	DescriptorSets []string // as `buf build -o` and `protoc --descriptor_set_out --include_imports` write them
}

// Files are contracts that were read from files.
type Files struct{ registry *protoregistry.Files }

// ReadFiles reads contracts, nil when no file is named. Imports may also be files that
// this program is compiled with, such as those of google/protobuf. The error names the
// flag, the file, and the line of a source.
func ReadFiles(ctx context.Context, o FileOptions) (*Files, error) {
	if len(o.Protos)+len(o.DescriptorSets) == 0 {
		return nil, nil
	}
	var all merged
	for _, path := range o.DescriptorSets {
		if err := all.addSet(path); err != nil {
			return nil, fmt.Errorf("--descriptor-set %q: %w", path, err)
		}
	}
	if err := compile(ctx, o.Protos, o.ImportPaths, &all); err != nil {
		return nil, fmt.Errorf("--proto: %w", err)
	}
	registry, err := protodesc.NewFiles(&all.set)
	if err != nil {
		return nil, fmt.Errorf("the contracts are not valid together: %w", err)
	}
	return &Files{registry}, nil
}

// Registry has all that was read.
func (f *Files) Registry() *protoregistry.Files { return f.registry }

// compiledIn are the contracts of this program.
var compiledIn = sync.OnceValue(func() *Files { return &Files{protoregistry.GlobalFiles} })

func (f *Files) service(name string) (*Service, error) {
	service, err := serviceIn(f.registry, name)
	if errors.Is(err, protoregistry.NotFound) {
		return nil, nil
	}
	return service, err
}

func (f *Files) services() ([]string, error) { return f.names(), nil }

// names are those of all services.
func (f *Files) names() []string {
	var names []string
	f.registry.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			names = append(names, string(file.Services().Get(i).FullName()))
		}
		return true
	})
	slices.Sort(names)
	return names
}

// merged is a set in which each file is once.
type merged struct {
	set   descriptorpb.FileDescriptorSet
	known map[string]bool
}

func (m *merged) add(file *descriptorpb.FileDescriptorProto) {
	if m.known[file.GetName()] {
		return
	}
	if m.known == nil {
		m.known = map[string]bool{}
	}
	m.known[file.GetName()] = true
	m.set.File = append(m.set.File, file)
}

// addSet reads a descriptor set, with what it imports.
func (m *merged) addSet(path string) error {
	bytes, err := readFile(path)
	if err != nil {
		return err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(bytes, &set); err != nil || len(set.File) == 0 {
		return errors.New("it is none: write one by `buf build -o FILE.binpb`, or `protoc --descriptor_set_out=FILE --include_imports`")
	}
	for _, file := range set.File {
		m.add(file)
	}
	for _, file := range set.File {
		for _, name := range file.GetDependency() {
			if err := m.addImport(name); err != nil {
				return fmt.Errorf("%s imports %q, which is not in it: write it with --include_imports", file.GetName(), name)
			}
		}
	}
	return nil
}

// addImport adds a file that this program is compiled with, unless it is there.
func (m *merged) addImport(name string) error {
	if m.known[name] {
		return nil
	}
	file, err := protoregistry.GlobalFiles.FindFileByPath(name)
	if err == nil {
		m.addAll(file, protodesc.ToFileDescriptorProto)
	}
	return err
}

// addAll adds a file and all that it imports.
func (m *merged) addAll(file protoreflect.FileDescriptor, convert func(protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto) {
	if m.known[file.Path()] {
		return
	}
	m.add(convert(file))
	for i := range file.Imports().Len() {
		m.addAll(file.Imports().Get(i).FileDescriptor, convert)
	}
}

// readFile is the content of a file of a bounded size.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bytes, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err == nil && len(bytes) > maxBytes {
		err = fmt.Errorf("it is larger than %d MiB", maxBytes>>20)
	}
	return bytes, err
}
