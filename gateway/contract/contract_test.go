package contract_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func ExampleFiles() {
	dir, _ := os.MkdirTemp("", "contract")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sweets.binpb") // as `buf build -o sweets.binpb` writes it
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("sweets.proto"), Package: proto.String("sweets"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Sweet")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Sweets"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Get"), InputType: proto.String(".sweets.Sweet"), OutputType: proto.String(".sweets.Sweet")},
		}}},
	}}}
	text, _ := proto.Marshal(set)
	_ = os.WriteFile(path, text, 0o600)

	offered, err := contract.Files(path).Load(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, service := range offered.Services {
		fmt.Println(service.FullName())
	}
	// Output: sweets.Sweets
}

// Both versions of reflection bring the same contract, with policies of methods as the
// types that this program is linked with, and without gRPC's own services.
func TestReflectionReadsBothVersions(t *testing.T) {
	for name, register := range map[string]func(*offer) func(*grpc.Server){"v1": v1, "v1alpha only": v1alpha} {
		t.Run(name, func(t *testing.T) {
			conn := serve(t, register(offerOf(t, cakes)))
			loaded := load(t, contract.Reflection(conn))
			if len(loaded.Services) != 1 || loaded.Services[0].FullName() != "cakes.v1.CakeService" {
				t.Fatalf("services %v, want cakes.v1.CakeService alone", loaded.Services)
			}
			policy, _ := proto.GetExtension(loaded.Services[0].Methods().Get(0).Options(), policyv1.E_Method).(*policyv1.MethodPolicy)
			if policy.GetCache().GetTtl() != "1m" {
				t.Errorf("policy %v, want a ttl of 1m", policy)
			}
			if _, err := loaded.Types.FindMessageByName("google.protobuf.Timestamp"); err != nil {
				t.Errorf("imports: %v", err)
			}
			if again := load(t, contract.Reflection(conn)); !again.Equal(loaded) {
				t.Error("a second load of the same server is not equal")
			}
			changed := load(t, contract.Reflection(serve(t, register(offerOf(t, strings.Replace(cakes, "string name", "string title", 1))))))
			if changed.Equal(loaded) {
				t.Error("a contract with another field is equal")
			}
		})
	}
}

func TestReflectionRefuses(t *testing.T) {
	undescribed := offerOf(t, cakes)
	undescribed.set(undescribed.files, "cakes.v1.CakeService", "pies.v1.PieService")
	empty := offerOf(t, cakes)
	empty.set(empty.files, "grpc.health.v1.Health")
	lacking := compile(t, cakes)
	for _, file := range lacking.File {
		if file.GetName() == "cakes/v1/cakes.proto" {
			file.Dependency = append(file.Dependency, "sugar/v1/sugar.proto")
		}
	}
	for name, test := range map[string]struct {
		register func(*grpc.Server)
		code     codes.Code
		says     string
	}{
		"a server without reflection":            {func(*grpc.Server) {}, codes.Unknown, "the server does not answer reflection: register it there"},
		"a service that no file describes":       {v1(undescribed), codes.Unknown, "service pies.v1.PieService"},
		"a server with nothing but gRPC's own":   {v1(empty), codes.Unknown, "no service but gRPC's own"},
		"an import that is nowhere":              {canned(lacking), codes.Unknown, "sugar/v1/sugar.proto"},
		"more files than anybody has":            {flood{files: 1 << 13}.register, codes.ResourceExhausted, "4096 files"},
		"one answer of more bytes than it may":   {flood{files: 64, bytes: 1 << 19}.register, codes.ResourceExhausted, "larger than max"},
		"answers of more bytes than they may":    {flood{chain: true, bytes: 1 << 20}.register, codes.ResourceExhausted, "16 MiB"},
		"imports that never end":                 {flood{chain: true}.register, codes.Unknown, "import tree depth"},
		"a server that refuses to say its names": {refusing, codes.PermissionDenied, "list of services"},
	} {
		t.Run(name, func(t *testing.T) {
			loaded, err := contract.Reflection(serve(t, test.register)).Load(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.says) || status.Code(err) != test.code || loaded != nil {
				t.Fatalf("contract %v, error %v of code %v, want %q of %v", loaded, err, status.Code(err), test.says, test.code)
			}
		})
	}
	if _, err := contract.Reflection(serve(t, func(*grpc.Server) {})).Load(t.Context()); !errors.Is(err, contract.ErrNoReflection) {
		t.Errorf("got %v, want ErrNoReflection", err)
	}
}

// An import that a server leaves out, because it only declares options, is the one that
// this program is linked with.
func TestAnImportThatTheServerLeavesOutIsOurOwn(t *testing.T) {
	set := compile(t, cakes)
	var kept descriptorpb.FileDescriptorSet
	for _, file := range set.File {
		if file.GetName() == "cakes/v1/cakes.proto" {
			kept.File = append(kept.File, file)
		}
	}
	loaded := load(t, contract.Reflection(serve(t, canned(&kept))))
	if _, err := loaded.Files.FindFileByPath("meshlite/policy/v1/policy.proto"); err != nil {
		t.Error(err)
	}
}

func TestFilesReadsDescriptorSets(t *testing.T) {
	dir := t.TempDir()
	whole, other := filepath.Join(dir, "whole.binpb"), filepath.Join(dir, "other.binpb")
	write(t, whole, compile(t, cakes))
	write(t, other, compile(t, strings.Replace(cakes, "string name", "string title", 1)))
	loaded := load(t, contract.Files(whole, whole))
	service := loaded.Services[0]
	if comment := service.ParentFile().SourceLocations().ByDescriptor(service).LeadingComments; comment != " Bakes cakes.\n" {
		t.Errorf("comment %q is not kept", comment)
	}
	if again := load(t, contract.Files(whole)); !again.Equal(loaded) {
		t.Error("the same set is not equal")
	}
	for name, test := range map[string]struct {
		paths []string
		says  string
	}{
		"none":               {nil, "no descriptor set file is named"},
		"missing":            {[]string{filepath.Join(dir, "nowhere")}, "no such file"},
		"no set":             {[]string{text(t, dir, "no set")}, "is no descriptor set: write one by `buf build"},
		"empty":              {[]string{text(t, dir, "")}, "is no descriptor set"},
		"differing sets":     {[]string{whole, other}, "cakes/v1/cakes.proto differs in"},
		"a missing import":   {[]string{broken(t, dir)}, `the contract lacks "sugar/v1/sugar.proto", which cakes/v1/cakes.proto imports: include all imports`},
		"an unresolved type": {[]string{unresolved(t, dir)}, "the descriptors are not valid"},
		"too large":          {[]string{text(t, dir, strings.Repeat("x", contract.MaxBytes+1))}, "larger than 4096 files or 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := contract.Files(test.paths...).Load(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}

func write(t testing.TB, path string, set *descriptorpb.FileDescriptorSet) {
	t.Helper()
	bytes, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
}

// text writes a file of any content.
func text(t testing.TB, dir, content string) (path string) {
	t.Helper()
	file, err := os.CreateTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

// broken is a set without one of its imports.
func broken(t testing.TB, dir string) (path string) {
	set := compile(t, cakes)
	last := set.File[len(set.File)-1]
	last.Dependency = append(last.Dependency, "sugar/v1/sugar.proto")
	path = filepath.Join(dir, "broken.binpb")
	write(t, path, set)
	return path
}

func unresolved(t testing.TB, dir string) (path string) {
	set := compile(t, cakes)
	set.File[len(set.File)-1].MessageType[0].Field[1].TypeName = proto.String(".google.protobuf.Nowhere")
	path = filepath.Join(dir, "unresolved.binpb")
	write(t, path, set)
	return path
}

// canned answers reflection from a set that may be broken.
func canned(set *descriptorpb.FileDescriptorSet) func(*grpc.Server) {
	return func(s *grpc.Server) {
		reflectionv1.RegisterServerReflectionServer(s, answers(func(q *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
			if q.GetListServices() != "" {
				return listed("cakes.v1.CakeService")
			}
			for _, file := range set.File {
				if q.GetFileContainingSymbol() != "" && len(file.Service) > 0 || q.GetFileByFilename() == file.GetName() {
					return described(file)
				}
			}
			return failed(codes.NotFound)
		}))
	}
}

// flood answers with more than there should be.
type flood struct {
	files, bytes int
	chain        bool // each file imports another one
}

func (f flood) register(s *grpc.Server) {
	asked := 0
	reflectionv1.RegisterServerReflectionServer(s, answers(func(q *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		if q.GetListServices() != "" {
			return listed("cakes.v1.CakeService")
		}
		if f.chain {
			asked++
			return described(&descriptorpb.FileDescriptorProto{Name: proto.String(orElse(q.GetFileByFilename(), "0.proto")), Package: proto.String(strings.Repeat("x", f.bytes)), Dependency: []string{fmt.Sprintf("%d.proto", asked)}})
		}
		var files []*descriptorpb.FileDescriptorProto
		for i := range f.files {
			files = append(files, &descriptorpb.FileDescriptorProto{Name: proto.String(fmt.Sprintf("%d.proto", i)), Package: proto.String(strings.Repeat("x", f.bytes))})
		}
		return described(files...)
	}))
}

func orElse(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func refusing(s *grpc.Server) {
	reflectionv1.RegisterServerReflectionServer(s, answers(func(*reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		return failed(codes.PermissionDenied)
	}))
}

type answers func(*reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse

func (a answers) ServerReflectionInfo(stream reflectionv1.ServerReflection_ServerReflectionInfoServer) error {
	for {
		question, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client has left
		}
		if err := stream.Send(a(question)); err != nil {
			return err
		}
	}
}

func listed(name string) *reflectionv1.ServerReflectionResponse {
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ListServicesResponse{
		ListServicesResponse: &reflectionv1.ListServiceResponse{Service: []*reflectionv1.ServiceResponse{{Name: name}}},
	}}
}

func described(files ...*descriptorpb.FileDescriptorProto) *reflectionv1.ServerReflectionResponse {
	response := &reflectionv1.FileDescriptorResponse{}
	for _, file := range files {
		bytes, _ := proto.Marshal(file)
		response.FileDescriptorProto = append(response.FileDescriptorProto, bytes)
	}
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{FileDescriptorResponse: response}}
}

func failed(code codes.Code) *reflectionv1.ServerReflectionResponse {
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
		ErrorResponse: &reflectionv1.ErrorResponse{ErrorCode: int32(code), ErrorMessage: "no"},
	}}
}
