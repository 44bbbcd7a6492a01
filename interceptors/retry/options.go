package retry

import (
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// options are the call options of a call, so that it looks like one attempt to
// whoever made it.
type options struct {
	all      []grpc.CallOption // for each attempt
	finishes []func(error)     // for the last one
}

// newOptions takes the OnFinish options out, which gRPC would call at the end of
// each attempt.
func newOptions(all []grpc.CallOption) options {
	o := options{all: all}
	if !slices.ContainsFunc(all, isFinish) {
		return o
	}
	o.all = slices.DeleteFunc(slices.Clone(all), isFinish)
	for _, option := range all {
		if f, ok := option.(grpc.OnFinishCallOption); ok {
			o.finishes = append(o.finishes, f.OnFinish)
		}
	}
	return o
}

func isFinish(option grpc.CallOption) bool {
	_, ok := option.(grpc.OnFinishCallOption)
	return ok
}

func (o options) with(trailer grpc.CallOption) []grpc.CallOption {
	return append(slices.Clip(o.all), trailer)
}

func (o options) finish(err error) {
	for _, finish := range o.finishes {
		finish(err)
	}
}

// reset takes back what a failed attempt has left. gRPC does not write headers
// and peer of an attempt that never reached a server.
func (o options) reset(reply any) {
	if message, ok := reply.(proto.Message); ok {
		proto.Reset(message)
	}
	for _, option := range o.all {
		switch option := option.(type) {
		case grpc.HeaderCallOption:
			*option.HeaderAddr = nil
		case grpc.TrailerCallOption:
			*option.TrailerAddr = nil
		case grpc.PeerCallOption:
			*option.PeerAddr = peer.Peer{}
		}
	}
}
