package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/identity/intention"
)

// IntentionsOptions are those of [CheckIntentions].
type IntentionsOptions struct {
	Agent               string // host:port; empty is the one that the environment names
	Source, Destination string
	Method              string // package.Service/Method; empty is a decision by the source alone
	Metadata            []string
	Format              Format
}

// intentionsReport is what the command writes as JSON.
type intentionsReport struct {
	Source        string       `json:"source"`
	Destination   string       `json:"destination"`
	Method        string       `json:"method"`
	Allowed       bool         `json:"allowed"`
	Rule          string       `json:"rule"`
	Reason        string       `json:"reason"`
	Without       *withoutRule `json:"without"` // null: the default decides
	Default       string       `json:"default"`
	DefaultReason string       `json:"default_reason"`
	Refused       []string     `json:"refused"`
	TrustDomain   string       `json:"trust_domain"`
}

type withoutRule struct {
	Allowed bool   `json:"allowed"`
	Rule    string `json:"rule"`
}

// CheckIntentions writes which intention decides about the calls of a source to a
// destination, and what would decide without it.
func CheckIntentions(ctx context.Context, o IntentionsOptions, streams Streams) error {
	report, err := decide(ctx, o)
	if err != nil {
		return err
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, report)
	}
	report.write(streams.Out)
	return nil
}

// decide reads the intentions, and what they decide.
func decide(ctx context.Context, o IntentionsOptions) (*intentionsReport, error) {
	md, err := parseMetadata(o.Metadata)
	if err != nil {
		return nil, err
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	set, err := directory.Intentions(ctx, o.Destination)
	if err != nil {
		return nil, err
	}
	return explainIntentions(o, set, md)
}

func explainIntentions(o IntentionsOptions, set intention.Set, md metadata.MD) (*intentionsReport, error) {
	rules, err := intention.Compile(o.Destination, set)
	if err != nil {
		return nil, Usagef("%w", err)
	}
	headers := func(key string) []string { return md[key] }
	if o.Method == "" && rules.ByPermissions(o.Source) {
		return nil, Usagef("permissions decide about %s => %s: write METHOD, as package.Service/Method", o.Source, o.Destination)
	}
	explained := rules.Explain(o.Source, "/"+strings.TrimPrefix(o.Method, "/"), headers)
	r := &intentionsReport{
		Source: o.Source, Destination: o.Destination, Method: o.Method,
		Allowed: explained.Allowed, Rule: explained.Rule, Reason: explained.Reason,
		Default: string(set.Default), DefaultReason: set.DefaultReason, Refused: append([]string{}, rules.Refused()...), TrustDomain: set.TrustDomain,
	}
	if without := explained.Without; without != nil {
		r.Without = &withoutRule{without.Allowed, without.Rule}
	}
	return r, nil
}

func verdict(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

func (r *intentionsReport) write(out io.Writer) {
	call := oneLine(r.Source + " => " + r.Destination)
	if r.Method != "" {
		call += " " + oneLine(r.Method)
	}
	mark := "✗"
	if r.Allowed {
		mark = "✓"
	}
	fmt.Fprintf(out, "%s %s: %s by %s\n", mark, call, verdict(r.Allowed), oneLine(r.Rule))
	if r.Reason != "" {
		fmt.Fprintf(out, "    %s\n", oneLine(r.Reason))
	}
	if r.Without != nil {
		fmt.Fprintf(out, "    without that intention: %s by %s\n", verdict(r.Without.Allowed), oneLine(r.Without.Rule))
	}
	fmt.Fprintf(out, "    default: %s", r.Default)
	if r.DefaultReason != "" && r.Reason != r.DefaultReason {
		fmt.Fprintf(out, " (%s)", r.DefaultReason)
	}
	fmt.Fprintln(out)
	for _, refused := range r.Refused {
		fmt.Fprintf(out, "  ! %s\n", oneLine(refused))
	}
}
