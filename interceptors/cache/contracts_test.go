package cache_test

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// teaFiles are a contract that this program is not linked with. Answers have more fields
// than one if so asked.
func teaFiles(t *testing.T, fields ...string) (*protoregistry.Files, protoreflect.MessageDescriptor) {
	t.Helper()
	options := &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}
	proto.SetExtension(options, policyv1.E_Method, &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}})
	message := &descriptorpb.DescriptorProto{Name: proto.String("Tea")}
	for i, name := range fields {
		message.Field = append(message.Field, &descriptorpb.FieldDescriptorProto{
			Name: proto.String(name), Number: proto.Int32(int32(i + 1)), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		})
	}
	files, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("tea.proto"), Package: proto.String("tea"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{message},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Teas"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Get"), InputType: proto.String(".tea.Tea"), OutputType: proto.String(".tea.Tea"), Options: options},
		}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	found, err := files.FindDescriptorByName("tea.Tea")
	if err != nil {
		t.Fatal(err)
	}
	return files, found.(protoreflect.MessageDescriptor)
}

// Two processes that have read the same contract share answers through a store; one that
// has read a newer one has its own.
func TestAStoreKeepsAnswersOfAContractThatIsNotLinked(t *testing.T) {
	shared, calls := newShelf(), 0
	ask := func(fields ...string) string {
		t.Helper()
		files, tea := teaFiles(t, fields...)
		contracts := &interceptors.Contracts{}
		if err := contracts.Set(files); err != nil {
			t.Fatal(err)
		}
		policies, err := interceptors.NewPolicies(nil, interceptors.WithContracts(contracts))
		if err != nil {
			t.Fatal(err)
		}
		c, err := cache.New(cache.WithStore(shared), cache.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		chain, err := interceptors.Chain(interceptors.Client, policies, c)
		if err != nil {
			t.Fatal(err)
		}
		reply := dynamicpb.NewMessage(tea)
		err = chain.UnaryClient()(t.Context(), "/tea.Teas/Get", dynamicpb.NewMessage(tea), reply, nil,
			func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				calls++
				message := reply.(proto.Message).ProtoReflect()
				message.Set(message.Descriptor().Fields().ByNumber(1), protoreflect.ValueOfString("green"))
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Get(tea.Fields().ByNumber(1)).String()
	}
	for i, test := range []struct {
		fields []string
		calls  int
	}{{[]string{"kind"}, 1}, {[]string{"kind"}, 1}, {[]string{"kind", "leaf"}, 2}, {[]string{"kind", "leaf"}, 2}} {
		if got := ask(test.fields...); got != "green" || calls != test.calls {
			t.Errorf("process %d: %q after %d calls, want green after %d", i, got, calls, test.calls)
		}
	}
}
