package reflectcall_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/internal/reflectcall"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// write makes a tree of files, and is its root.
func write(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// greet is a contract in two files, which imports what users import.
var greet = map[string]string{
	"proto/greet/v1/greet.proto": `syntax = "proto3";
package greet.v1;
import "google/protobuf/timestamp.proto";
import "greet/v1/types.proto";
import "meshlite/policy/v1/policy.proto";
service GreetService {
  rpc Greet(GreetRequest) returns (GreetResponse) {
    option (meshlite.policy.v1.method) = {timeout: "2s"};
  }
}
message GreetRequest { string name = 1; google.protobuf.Timestamp at = 2; }
`,
	"proto/greet/v1/types.proto": `syntax = "proto3";
package greet.v1;
message GreetResponse { string text = 1; }
`,
	"flat.proto":   `syntax = "proto3"; package other.v1; import "beside.proto"; service Flat { rpc Do(Thing) returns (Thing); }`,
	"beside.proto": `syntax = "proto3"; package other.v1; message Thing {}`,
	"broken.proto": "syntax = \"proto3\";\npackage broken.v1;\nmessage M { strng a = 1; }\n",
	"empty.proto":  `syntax = "proto3"; import "nowhere.proto";`,
}

func TestReadSources(t *testing.T) {
	root := write(t, greet)
	t.Chdir(root)
	for name, test := range map[string]struct {
		options reflectcall.FileOptions
		service string // in it, or
		says    string // what is wrong
	}{
		"the folder follows the package":         {reflectcall.FileOptions{Protos: []string{"proto/greet/v1/greet.proto"}}, "greet.v1.GreetService", ""},
		"by its whole path":                      {reflectcall.FileOptions{Protos: []string{filepath.Join(root, "proto/greet/v1/greet.proto")}}, "greet.v1.GreetService", ""},
		"both files":                             {reflectcall.FileOptions{Protos: []string{"proto/greet/v1/types.proto", "proto/greet/v1/greet.proto"}}, "greet.v1.GreetService", ""},
		"the same twice":                         {reflectcall.FileOptions{Protos: []string{"proto/greet/v1/greet.proto", "./proto/greet/v1/greet.proto"}}, "greet.v1.GreetService", ""},
		"named below the import path":            {reflectcall.FileOptions{Protos: []string{"greet/v1/greet.proto"}, ImportPaths: []string{"proto"}}, "greet.v1.GreetService", ""},
		"named with the import path":             {reflectcall.FileOptions{Protos: []string{"proto/greet/v1/greet.proto"}, ImportPaths: []string{"proto"}}, "greet.v1.GreetService", ""},
		"the folder does not follow the package": {reflectcall.FileOptions{Protos: []string{"flat.proto"}}, "other.v1.Flat", ""},
		"it is in no import path":                {reflectcall.FileOptions{Protos: []string{"flat.proto"}, ImportPaths: []string{"proto"}}, "", "--proto: flat.proto is in none of the folders proto: name the one that its imports begin at by --proto-path"},
		"it is not there":                        {reflectcall.FileOptions{Protos: []string{"proto/greet/v1/gret.proto"}}, "", "--proto: open proto/greet/v1/gret.proto: no such file"},
		"it has a fault":                         {reflectcall.FileOptions{Protos: []string{"broken.proto"}}, "", "--proto: broken.proto:3:13: field broken.v1.M.a: unknown type strng"},
		"an import is missing":                   {reflectcall.FileOptions{Protos: []string{"empty.proto"}}, "", "nowhere.proto"},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := reflectcall.ReadFiles(t.Context(), test.options)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("got %v, want %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// The server keeps its contracts to itself.
			service, method, err := reflectcall.Finder{Conn: serve(t, func(*grpc.Server) {}), Files: files}.Find(t.Context(), test.service)
			if err != nil || method != nil || service.Name() != test.service || len(service.Methods()) != 1 {
				t.Errorf("got %v, %v, %v", service, method, err)
			}
		})
	}
}

// set is a descriptor set of the catalog, with what it imports or without.
func set(t *testing.T, imports bool) (path string) {
	t.Helper()
	file := catalogv1.File_sweetshop_catalog_v1_catalog_proto
	var s descriptorpb.FileDescriptorSet
	for i := range file.Imports().Len() {
		if imports {
			s.File = append(s.File, protodesc.ToFileDescriptorProto(file.Imports().Get(i).FileDescriptor))
		}
	}
	// Under a name that this program is not compiled with.
	own := protodesc.ToFileDescriptorProto(file)
	text, err := proto.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	renamed := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal([]byte(strings.ReplaceAll(string(text), "sweetshop.catalog.v1", "sweetshop.katalog.v1")), renamed); err != nil {
		t.Fatal(err)
	}
	renamed.Name = proto.String("katalog.proto")
	s.File = append(s.File, renamed)
	if text, err = proto.Marshal(&s); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "set.binpb")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What a set lacks may be something that everybody has.
func TestReadDescriptorSets(t *testing.T) {
	for _, imports := range []bool{true, false} {
		files, err := reflectcall.ReadFiles(t.Context(), reflectcall.FileOptions{DescriptorSets: []string{set(t, imports)}})
		if err != nil {
			t.Fatal(err)
		}
		finder := reflectcall.Finder{Conn: serve(t, func(*grpc.Server) {}), Files: files}
		method, err := finder.Method(t.Context(), "sweetshop.katalog.v1.CatalogService.GetSweet")
		if err != nil || method.Name() != "sweetshop.katalog.v1.CatalogService/GetSweet" {
			t.Errorf("got %v, %v", method, err)
		}
	}
	lacking := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{Name: proto.String("a.proto"), Dependency: []string{"b.proto"}}}}
	text, _ := proto.Marshal(lacking)
	root := write(t, map[string]string{"lacking": string(text), "text": "this is none"})
	for file, says := range map[string]string{
		"lacking": `a.proto imports "b.proto", which is not in it: write it with --include_imports`,
		"text":    "it is none: write one by `buf build -o FILE.binpb`",
		"nowhere": "no such file",
	} {
		_, err := reflectcall.ReadFiles(t.Context(), reflectcall.FileOptions{DescriptorSets: []string{filepath.Join(root, file)}})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "--descriptor-set") {
			t.Errorf("%s: got %v, want %q", file, err, says)
		}
	}
}

// The server's own contract comes first, files come next, and what is compiled in
// stands in only for a server that keeps its contracts to itself.
func TestWhereContractsComeFrom(t *testing.T) {
	t.Chdir(write(t, greet))
	files, err := reflectcall.ReadFiles(t.Context(), reflectcall.FileOptions{Protos: []string{"proto/greet/v1/greet.proto"}})
	if err != nil {
		t.Fatal(err)
	}
	open := func(s *grpc.Server) {
		catalogv1.RegisterCatalogServiceServer(s, catalogv1.UnimplementedCatalogServiceServer{})
	}
	reflecting := serve(t, shop)
	silent := serve(t, func(s *grpc.Server) { open(s); healthv1.RegisterHealthServer(s, health.NewServer()) })
	denied := serve(t, open, grpc.StreamInterceptor(func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
		return status.Error(codes.PermissionDenied, "no")
	}), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.PermissionDenied, "no") }))
	gone := serve(t, shop)
	gone.Close()
	for name, test := range map[string]struct {
		conn  *grpc.ClientConn
		files *reflectcall.Files
		name  string
		says  string
	}{
		"reflection":                     {reflecting, nil, getSweet, ""},
		"a file that the server has not": {reflecting, files, "greet.v1.GreetService/Greet", ""},
		"health without reflection":      {silent, nil, "grpc.health.v1.Health/Check", ""},
		"health, reflection denied":      {denied, nil, "grpc.health.v1.Health/Check", ""},
		"a file, reflection denied":      {denied, files, "greet.v1.GreetService/Greet", ""},
		"a file without reflection":      {silent, files, "greet.v1.GreetService/Greet", ""},
		"a method that the file lacks":   {silent, files, "greet.v1.GreetService/Gret", `greet.v1.GreetService has no method "Gret": it has Greet`},
		"a method that health lacks":     {silent, nil, "grpc.health.v1.Health/Chek", `has no method "Chek": it has Check`},
		"unknown to both":                {reflecting, files, "greet.v1.Greet/Greet", `the server has no service "greet.v1.Greet": it offers `},
		"unknown, without reflection":    {silent, nil, "greet.v1.GreetService/Greet", "the server does not answer reflection"},
		"unknown to the files": {silent, files, "greet.v1.Greeting/Greet",
			`the server does not answer reflection, and the files that were given have no service "greet.v1.Greeting": they have greet.v1.GreetService`},
		"nobody is there": {gone, files, "greet.v1.GreetService/Greet", "closing"},
	} {
		t.Run(name, func(t *testing.T) {
			method, err := reflectcall.Finder{Conn: test.conn, Files: test.files}.Method(t.Context(), test.name)
			if test.says == "" && (err != nil || method.Name() != test.name) {
				t.Errorf("got %v, %v", method, err)
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
	for name, test := range map[string]struct {
		conn  *grpc.ClientConn
		files *reflectcall.Files
		has   string
	}{
		"reflection": {reflecting, files, "grpc.health.v1.Health"}, "files": {silent, files, "greet.v1.GreetService"},
	} {
		names, err := reflectcall.Finder{Conn: test.conn, Files: test.files}.Services(t.Context())
		if err != nil || !strings.Contains(strings.Join(names, " "), test.has) {
			t.Errorf("%s lists %v, %v", name, names, err)
		}
	}
	if names, err := (reflectcall.Finder{Conn: silent}).Services(t.Context()); err != reflectcall.ErrNoReflection {
		t.Errorf("without both it lists %v, %v", names, err)
	}
}
