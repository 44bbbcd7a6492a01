package reflectcall

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// versions are the names of the reflection service, newest first. Their messages
// are the same on the wire.
var versions = [...]string{
	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

// session is one stream of questions to one instance.
type session struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
}

func open(ctx context.Context, conn grpc.ClientConnInterface, version string) (*session, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := conn.NewStream(ctx, &reflectionv1.ServerReflection_ServiceDesc.Streams[0], version)
	if err != nil {
		cancel()
		return nil, err
	}
	return &session{stream, cancel}, nil
}

// close ends the stream in order, so that neither end counts it as broken off.
func (s *session) close() {
	if s.stream.CloseSend() == nil {
		_ = s.stream.RecvMsg(&reflectionv1.ServerReflectionResponse{})
	}
	s.cancel()
}

// ask sends one question and waits for its answer. What the server refuses is an
// error with the status that it gives.
func (s *session) ask(question *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	// After io.EOF, RecvMsg returns why the stream ended.
	if err := s.stream.SendMsg(question); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	answer := &reflectionv1.ServerReflectionResponse{}
	if err := s.stream.RecvMsg(answer); err != nil {
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Internal, "the server ended the reflection stream without an answer")
		}
		return nil, err
	}
	if refused := answer.GetErrorResponse(); refused != nil {
		return nil, status.Error(codes.Code(refused.GetErrorCode()), refused.GetErrorMessage())
	}
	return answer, nil
}

// services lists the names of the services that the server offers.
func (s *session) services() ([]string, error) {
	answer, err := s.ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{ListServices: "*"},
	})
	if err != nil {
		return nil, within("list of services", err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	return names, nil
}

// within says what was asked for, and keeps the code of err.
func within(what string, err error) error {
	s := status.Convert(err)
	return status.Errorf(s.Code(), "%s: %s", what, s.Message())
}
