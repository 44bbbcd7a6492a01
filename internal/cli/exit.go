package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// The exit codes of the tool.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2   // the command line is wrong
	ExitInterrupted = 130 // SIGINT or SIGTERM came before the command was done
)

// Error is an error with an exit code. Any other error means ExitFailure.
type Error struct {
	Code int
	Err  error
}

// Error is the text of the error within.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is the error within.
func (e *Error) Unwrap() error { return e.Err }

// Usagef is an error of the command line. Format takes what fmt.Errorf takes.
func Usagef(format string, args ...any) error {
	return &Error{ExitUsage, fmt.Errorf(format, args...)}
}

// Report writes err to w in one line and returns the exit code. A command that
// fails after ctx has ended was interrupted.
func Report(ctx context.Context, err error, w io.Writer) int {
	if err == nil {
		return ExitOK
	}
	code, text := ExitFailure, oneLine(err.Error())
	var coded *Error
	if errors.As(err, &coded) {
		code = coded.Code
	}
	if ctx.Err() != nil {
		code, text = ExitInterrupted, "interrupted"
	}
	fmt.Fprintln(w, "meshlite:", text)
	return code
}

// maxLine bounds a message: part of it may be what the other end wrote.
const maxLine = 4096

// oneLine joins lines and removes control characters, such as escapes of a terminal.
func oneLine(text string) string {
	text = strings.TrimPrefix(text, "meshlite: ")
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) {
			return unicode.ReplacementChar
		}
		return c
	}, text)
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "..."
	}
	return text
}
