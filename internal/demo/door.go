package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// doorEvery is which customers come through the gateway, by JSON over HTTP: a third.
const doorEvery = 3

// maxAnswer bounds an answer of the gateway, in bytes.
const maxAnswer = 4 << 20

// door calls unary methods through a gateway, so that the code of gRPC serves customers of
// both kinds.
type door struct {
	url    string // of the gateway, without a slash at its end
	client *http.Client
}

func newDoor(address string) *door {
	return &door{url: "http://" + address, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight}}}
}

func (d *door) close() { d.client.CloseIdleConnections() }

// Invoke makes one call. Outgoing metadata becomes headers.
func (d *door) Invoke(ctx context.Context, method string, request, answer any, _ ...grpc.CallOption) error {
	body, err := protojson.Marshal(request.(proto.Message))
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	sent, _ := metadata.FromOutgoingContext(ctx)
	for key, values := range sent {
		r.Header[http.CanonicalHeaderKey(key)] = values
	}
	response, err := d.client.Do(r)
	if err != nil {
		return fmt.Errorf("through the gateway: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("through the gateway: %w", err)
	case response.StatusCode != http.StatusOK:
		return problemError(response.Status, text)
	default:
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, answer.(proto.Message))
	}
}

// problemError is the status of gRPC that stands in problem details.
func problemError(httpStatus string, text []byte) error {
	var problem struct{ Code, Detail string }
	var code codes.Code
	if json.Unmarshal(text, &problem) != nil || code.UnmarshalJSON([]byte(`"`+strings.ToUpper(problem.Code)+`"`)) != nil {
		code, problem.Detail = codes.Unknown, fmt.Sprintf("%.200s", text)
	}
	return status.Errorf(code, "through the gateway: %s: %s", httpStatus, problem.Detail)
}

// NewStream is for streams, which no customer has.
func (d *door) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("a customer at the gateway makes unary calls only")
}
