package ratelimit

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

func (p *part) streamServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	var space [few]entry
	v, ended := p.admit(ss.Context(), nil, space[:0])
	if err := p.refuse(&v, ended, ss.SetTrailer); err != nil {
		return err
	}
	c := p.newCall(ss.Context(), &v)
	if p.options.fields {
		ss.SetTrailer(fields(c.entries.standings(c.table, c.now)))
	}
	if p.refunds {
		err = errPanic
		defer func() { p.settle(c, c.entries, err) }()
	}
	return handler(srv, &serverStream{ServerStream: ss, ctx: c, messages: p.messages})
}

// serverStream charges each message that it receives but the first, for which the
// opening was charged.
type serverStream struct {
	grpc.ServerStream
	ctx      context.Context
	messages *part // nil where only the opening is charged
	opened   bool
	told     bool
}

// Context tells the standings.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg fails with the refusal of a message that is one too many.
func (s *serverStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err != nil || s.messages == nil {
		return err
	}
	if !s.opened {
		s.opened = true
		return nil
	}
	var space [few]entry
	v, ended := s.messages.admit(s.ctx, m, space[:0])
	return s.messages.refuse(&v, ended, s.tell)
}

// tell once: two pushbacks mean never (gRFC A6).
func (s *serverStream) tell(md metadata.MD) {
	if !s.told {
		s.told = true
		s.SetTrailer(md)
	}
}

func (p *part) streamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (stream grpc.ClientStream, err error) {
	var record *attempt.Record
	var avoided *avoidance
	if p.kinds != nil {
		ctx, record = attempt.FromOrNew(ctx, attempt.Stream)
		if avoided, err = p.prepare(ctx, nil, cc, record); err != nil {
			return nil, err
		}
	}
	v, ended := p.admit(ctx, nil, nil) // outlives this call
	if err := p.refuse(&v, ended, nil); err != nil {
		return nil, err
	}
	own, finished := splitFinish(opts)
	for {
		a := avoided // of this attempt
		stream, err = p.open(ctx, func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(ctx, desc, cc, method, opts...)
		}, own, func(err error) {
			if p.kinds != nil {
				p.learn(ctx, nil, cc, record, a, err, nil)
			}
			if !a.refused() {
				p.settle(ctx, v.entries, err)
				finished(err)
			}
		})
		if err == nil || !a.refused() {
			return stream, err
		}
		if err = a.wait(ctx, err); err == nil {
			avoided, err = p.prepare(ctx, nil, cc, record)
		}
		if err != nil {
			p.takeBack(ctx, v.entries)
			finished(err)
			return nil, err
		}
	}
}

// open opens a stream, and calls finish once when it has ended or could not be opened.
func (p *part) open(ctx context.Context, streamer func(context.Context, ...grpc.CallOption) (grpc.ClientStream, error), opts []grpc.CallOption, finish func(error)) (grpc.ClientStream, error) {
	cancel := func() {}
	if p.messages != nil {
		ctx, cancel = context.WithCancel(ctx)
	}
	var once sync.Once
	ended := func(err error) {
		once.Do(func() {
			finish(err)
			cancel()
		})
	}
	stream, err := streamer(ctx, append(slices.Clip(opts), grpc.OnFinish(ended))...)
	if err != nil {
		ended(err)
		return nil, err
	}
	if p.messages == nil {
		return stream, nil
	}
	return &clientStream{ClientStream: stream, messages: p.messages, cancel: cancel}, nil
}

// clientStream charges each message that it sends but the first, for which the
// opening was charged.
type clientStream struct {
	grpc.ClientStream
	messages *part
	cancel   context.CancelFunc
	opened   bool
}

// SendMsg fails with the refusal of a message that is one too many, and ends the
// stream, as every error of SendMsg does.
func (s *clientStream) SendMsg(m any) error {
	if s.opened {
		var space [few]entry
		v, ended := s.messages.admit(s.Context(), m, space[:0])
		if err := s.messages.refuse(&v, ended, nil); err != nil {
			s.cancel()
			return err
		}
	}
	s.opened = true
	return s.ClientStream.SendMsg(m)
}
