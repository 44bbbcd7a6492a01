package explained

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

const (
	// maxWire bounds an answer on the wire, in bytes.
	maxWire = 8 << 10
	// maxTrailer is what clients of this module take of a trailer, less some room for what gRPC
	// adds: a call with more would fail for being explained.
	maxTrailer = 15 << 10
	perField   = 32 // bytes that HTTP/2 counts for each field
)

// deadlineOf is the deadline that the caller has set.
func deadlineOf(ctx context.Context) *hop.Deadline {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	return &hop.Deadline{Left: hop.Milliseconds(time.Until(deadline)), By: "caller"}
}

// answer ends the record of a call and sends it in the trailer, if that has room.
func answer(record *hop.Record, err error, trailer metadata.MD, set func(metadata.MD)) {
	record.End(rpc.Code(err).String())
	left := maxTrailer - statusSize(err)
	for key, values := range trailer {
		for _, value := range values {
			left -= fieldSize(key, value)
		}
	}
	room := min(maxWire, left-len(wire.ExplainedKey)-perField)
	if room >= 0 { // an empty answer is one that has no room
		encoded := hop.Encode(record.Close(), base64.RawStdEncoding.DecodedLen(room))
		set(metadata.Pairs(wire.ExplainedKey, string(encoded)))
	}
}

// statusSize is what the status of a call takes in its trailer.
func statusSize(err error) int {
	if err == nil {
		return 0
	}
	s := rpc.Status(err).Proto()
	size := 3 * len(s.GetMessage()) // percent-encoded
	if len(s.GetDetails()) > 0 {
		size += base64.RawStdEncoding.EncodedLen(proto.Size(s))
	}
	return size
}

func fieldSize(key, value string) int {
	if strings.HasSuffix(key, "-bin") {
		return len(key) + base64.RawStdEncoding.EncodedLen(len(value)) + perField
	}
	return len(key) + len(value) + perField
}

// sentTrailer is the trailer that was set so far.
func sentTrailer(ctx context.Context) metadata.MD {
	if stream, ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ Trailer() metadata.MD }); ok {
		return stream.Trailer()
	}
	return nil
}
