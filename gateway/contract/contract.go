// Package contract reads what a service offers, without generated code: by gRPC
// reflection from a running instance, or from descriptor set files. [Watch] reads again
// when it may have changed.
//
//	source := contract.Reflection(conn)
//	offered, err := source.Load(ctx)
package contract

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Bounds of one contract. Descriptors take several times their bytes in memory.
const (
	MaxFiles    = 4096
	MaxBytes    = 16 << 20
	LoadTimeout = 5 * time.Second // for one Load
)

// Contract is what one service of the mesh offers. It is immutable.
type Contract struct {
	Files    *protoregistry.Files             // all files, imports included
	Types    *dynamicpb.Types                 // of Files: resolves Any and extensions
	Services []protoreflect.ServiceDescriptor // by name, without gRPC's own

	digest [sha256.Size]byte // of the files and the names of Services
}

// Source is where a contract is read.
type Source interface {
	// Load reads the whole contract, within [LoadTimeout].
	Load(ctx context.Context) (*Contract, error)
}

// New makes a contract of the services that set has. With names it offers those alone,
// and each must be in set. Imports that are not in set may be files that this program
// is linked with, such as those of google/protobuf. The error names what is missing.
func New(set *descriptorpb.FileDescriptorSet, names ...protoreflect.FullName) (*Contract, error) {
	files, digest, err := canonical(set)
	if err != nil {
		return nil, err
	}
	registry, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: files})
	if err != nil {
		return nil, fmt.Errorf("the descriptors are not valid: %w", err)
	}
	c := &Contract{Files: registry, Types: dynamicpb.NewTypes(registry)}
	if c.Services, err = offered(registry, names); err != nil {
		return nil, err
	}
	for _, service := range c.Services {
		digest = sha256.Sum256(append(digest[:], service.FullName()...))
	}
	c.digest = digest
	return c, nil
}

// Equal reports whether both offer the same services by the same files, comments
// included. Contracts that [New] did not make are equal only to themselves.
func (c *Contract) Equal(other *Contract) bool {
	return c == other || c != nil && other != nil && c.digest == other.digest && c.digest != [sha256.Size]byte{}
}

// names are those of the services.
func (c *Contract) names() []string {
	var names []string
	for _, service := range c.Services {
		names = append(names, string(service.FullName()))
	}
	return names
}

// canonical returns copies of all files of set and what they import, by name, with a
// digest of them. Options that this program is linked with are parsed as its own types.
func canonical(set *descriptorpb.FileDescriptorSet) ([]*descriptorpb.FileDescriptorProto, [sha256.Size]byte, error) {
	var none [sha256.Size]byte
	given := map[string]*descriptorpb.FileDescriptorProto{}
	for _, file := range set.GetFile() {
		given[file.GetName()] = file
	}
	if err := addLinkedImports(given); err != nil {
		return nil, none, err
	}
	if len(given) > MaxFiles {
		return nil, none, errTooLarge
	}
	var files []*descriptorpb.FileDescriptorProto
	hash, size := sha256.New(), 0
	for _, name := range slices.Sorted(maps.Keys(given)) {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(given[name])
		if err != nil {
			return nil, none, fmt.Errorf("%s: %w", name, err)
		}
		if size += len(text); size > MaxBytes {
			return nil, none, errTooLarge
		}
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(text, file); err != nil {
			return nil, none, fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(hash, "%d %s %d ", len(name), name, len(text))
		hash.Write(text)
		files = append(files, file)
	}
	return files, [sha256.Size]byte(hash.Sum(nil)), nil
}

var errTooLarge = fmt.Errorf("the contract is larger than %d files or %d MiB", MaxFiles, MaxBytes>>20)

// addLinkedImports adds what files import and lack, if this program is linked with it.
func addLinkedImports(files map[string]*descriptorpb.FileDescriptorProto) error {
	var missing []string
	for queue := slices.Sorted(maps.Keys(files)); len(queue) > 0; queue = queue[1:] {
		for _, name := range files[queue[0]].GetDependency() {
			if files[name] != nil {
				continue
			}
			linked, err := protoregistry.GlobalFiles.FindFileByPath(name)
			if err != nil {
				missing = append(missing, fmt.Sprintf("%q, which %s imports", name, queue[0]))
				continue
			}
			files[name] = protodesc.ToFileDescriptorProto(linked)
			queue = append(queue, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		more := ""
		if n := len(missing) - 10; n > 0 {
			missing, more = missing[:10], fmt.Sprintf(" and %d more", n)
		}
		return fmt.Errorf("the contract lacks %s%s: include all imports, as `buf build -o FILE.binpb` and `protoc --include_imports` do", strings.Join(missing, ", "), more)
	}
	return nil
}

// offered are the services that are named, or without names all, by name.
func offered(files *protoregistry.Files, names []protoreflect.FullName) ([]protoreflect.ServiceDescriptor, error) {
	var services []protoreflect.ServiceDescriptor
	if names != nil {
		names = slices.Compact(slices.Sorted(slices.Values(names)))
	}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			if (names == nil || slices.Contains(names, service.FullName())) && !interceptors.Infrastructure(string(service.FullName())) {
				services = append(services, service)
			}
		}
		return true
	})
	slices.SortFunc(services, func(a, b protoreflect.ServiceDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	for _, name := range names {
		if !interceptors.Infrastructure(string(name)) && !slices.ContainsFunc(services, func(s protoreflect.ServiceDescriptor) bool { return s.FullName() == name }) {
			return nil, fmt.Errorf("no file describes the service %s", name)
		}
	}
	if len(services) == 0 {
		return nil, errors.New("the contract has no service but gRPC's own")
	}
	return services, nil
}

// sameFile reports whether two descriptors of a file agree.
func sameFile(a, b *descriptorpb.FileDescriptorProto) bool {
	deterministic := proto.MarshalOptions{Deterministic: true}
	x, errX := deterministic.Marshal(a)
	y, errY := deterministic.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
