package reflectcall

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/protoutil"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// compile adds sources and what they import to all.
func compile(ctx context.Context, protos, dirs []string, all *merged) error {
	if len(protos) == 0 {
		return nil
	}
	given := len(dirs) > 0
	var names []string
	for _, path := range protos {
		var name, root string
		var err error
		if given {
			name, err = nameBelow(path, dirs)
		} else {
			name, root, err = nameOf(path)
		}
		if err != nil {
			return err
		}
		names = append(names, name)
		if !given && !slices.Contains(dirs, root) {
			dirs = append(dirs, root)
		}
	}
	if !given {
		dirs = append(dirs, ".")
	}
	compiler := protocompile.Compiler{Resolver: protocompile.CompositeResolver{
		&protocompile.SourceResolver{ImportPaths: dirs, Accessor: openSource},
		protocompile.ResolverFunc(compiledFile),
		protocompile.WithStandardImports(protocompile.ResolverFunc(noFile)),
	}}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return fmt.Errorf("%w (imports are looked for in %s)", err, strings.Join(dirs, ", "))
	}
	for _, file := range files {
		all.addAll(file, protoutil.ProtoFromFileDescriptor)
	}
	return nil
}

func openSource(path string) (io.ReadCloser, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(text)), nil
}

// compiledFile is a file that this program is compiled with.
func compiledFile(name string) (protocompile.SearchResult, error) {
	file, err := protoregistry.GlobalFiles.FindFileByPath(name)
	return protocompile.SearchResult{Desc: file}, err
}

func noFile(string) (protocompile.SearchResult, error) {
	return protocompile.SearchResult{}, fs.ErrNotExist
}

// nameBelow is the name by which others import a source that is in one of dirs, or
// that is named from there.
func nameBelow(path string, dirs []string) (string, error) {
	for _, dir := range dirs {
		if name, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(name) && exists(path) {
			return filepath.ToSlash(name), nil
		}
	}
	for _, dir := range dirs {
		if filepath.IsLocal(path) && exists(filepath.Join(dir, path)) {
			return filepath.ToSlash(filepath.Clean(path)), nil
		}
	}
	return "", fmt.Errorf("%s is in none of the folders %s: name the one that its imports begin at by --proto-path", path, strings.Join(dirs, ", "))
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// nameOf is the name by which others import a source, and the folder that it begins
// at, if its folder follows its package as buf wants it: proto/greet/v1/greet.proto of
// the package greet.v1 is greet/v1/greet.proto in proto. Else it is the file alone.
func nameOf(path string) (name, root string, err error) {
	text, err := readFile(path)
	if err != nil {
		return "", "", err
	}
	node, err := parser.Parse(path, bytes.NewReader(text), reporter.NewHandler(nil))
	if err != nil {
		return "", "", err
	}
	dir, file := filepath.Split(filepath.Clean(path))
	dir = filepath.Clean(dir)
	below := filepath.FromSlash(strings.ReplaceAll(packageOf(node), ".", "/"))
	whole, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if below == "" || !strings.HasSuffix(whole, string(filepath.Separator)+below) {
		return file, dir, nil
	}
	root = strings.TrimSuffix(whole, below)
	return filepath.ToSlash(filepath.Join(below, file)), relative(root), nil
}

// relative is a folder as it reads best in a message.
func relative(dir string) string {
	here, err := os.Getwd()
	if err != nil {
		return dir
	}
	if short, err := filepath.Rel(here, dir); err == nil && filepath.IsLocal(short) {
		return short
	}
	return dir
}

func packageOf(node *ast.FileNode) string {
	for _, decl := range node.Decls {
		if p, ok := decl.(*ast.PackageNode); ok {
			return string(p.Name.AsIdentifier())
		}
	}
	return ""
}
