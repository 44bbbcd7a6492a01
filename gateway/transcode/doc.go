// Package transcode serves gRPC methods over HTTP with JSON, from their contracts alone.
package transcode
