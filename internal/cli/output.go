package cli

import (
	"encoding/json"
	"errors"
	"io"
	"time"
)

// Format is how a command writes its result. It is a flag's value.
type Format string

// The formats.
const (
	Text Format = "text"
	JSON Format = "json"
)

// Set takes "text" or "json".
func (f *Format) Set(value string) error {
	switch Format(value) {
	case Text, JSON:
		*f = Format(value)
		return nil
	default:
		return errors.New("write text or json")
	}
}

// String is the format's name.
func (f *Format) String() string { return string(*f) }

// Type is what help calls the value.
func (f *Format) Type() string { return "text|json" }

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// WriteJSON writes value as one indented JSON document.
func WriteJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// writeLine writes value as JSON in one line.
func writeLine(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// milliseconds are for JSON, down to the microsecond.
func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

// short is for people: three or four digits that count.
func short(d time.Duration) string {
	unit := time.Microsecond
	for d/unit >= 10000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
