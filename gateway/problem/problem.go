// Package problem writes errors of the gateway as problem details (RFC 9457).
//
//	problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "no method GET /v1/sweets"})
package problem

import (
	"encoding/json"
	"net/http"
)

// ContentType is the media type of the body.
const ContentType = "application/problem+json"

// Problem is the body of an error.
type Problem struct {
	Title   string            `json:"title"`             // of the status, if empty
	Status  int               `json:"status"`            // HTTP's; 500 if it is no error
	Detail  string            `json:"detail,omitempty"`  // for the person who reads it
	Code    string            `json:"code,omitempty"`    // gRPC's, by name: "NOT_FOUND"
	Field   string            `json:"field,omitempty"`   // path of the request's field that is wrong
	Details []json.RawMessage `json:"details,omitempty"` // messages of google.rpc, each with its @type
}

// JSON is the body of p.
func (p Problem) JSON() []byte {
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body, err := json.Marshal(p)
	if err != nil { // a detail is no JSON
		p.Details = nil
		body, _ = json.Marshal(p)
	}
	return body
}

// Write answers with p. Headers of w that are set before stay, except for those that describe
// another body.
func Write(w http.ResponseWriter, p Problem) {
	if p.Status < 400 || p.Status > 599 {
		p.Status = http.StatusInternalServerError
	}
	header := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Length", "Etag", "Last-Modified"} {
		header.Del(name)
	}
	header.Set("Content-Type", ContentType)
	header.Set("X-Content-Type-Options", "nosniff")
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.JSON()) // whoever asked has left
}
