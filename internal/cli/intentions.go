package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/reflectcall"
)

// IntentionsOptions are those of [CheckIntentions].
type IntentionsOptions struct {
	Agent               string // host:port; empty is the one that the environment names
	Source, Destination string
	Method              string // package.Service/Method; empty is a decision by the source alone
	Metadata            []string
	// Contracts have the intentions, in their policies. Without any, Consul has them.
	Contracts reflectcall.FileOptions
	Format    Format
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
	set, err := readIntentions(ctx, o)
	if err != nil {
		return nil, err
	}
	return explainIntentions(o, set, md)
}

func readIntentions(ctx context.Context, o IntentionsOptions) (intention.Set, error) {
	if err := checkContracts(o.Contracts); err != nil {
		return intention.Set{}, err
	}
	files, err := reflectcall.ReadFiles(ctx, o.Contracts)
	switch {
	case err != nil:
		return intention.Set{}, err
	case files != nil:
		return intentionsOfContract(files, o)
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return intention.Set{}, err
	}
	defer directory.Close()
	return directory.Intentions(ctx, o.Destination)
}

// intentionsOfContract are those of the service that has the method.
func intentionsOfContract(files *reflectcall.Files, o IntentionsOptions) (intention.Set, error) {
	if o.Method == "" {
		return intention.Set{}, Usagef("each service of a contract has intentions of its own: write METHOD, as package.Service/Method")
	}
	contracts := &interceptors.Contracts{}
	if err := contracts.Set(files.Registry()); err != nil {
		return intention.Set{}, err
	}
	policies, err := interceptors.NewPolicies(nil, interceptors.WithContracts(contracts))
	if err != nil {
		return intention.Set{}, err
	}
	meta := policies.Call(interceptors.Server, "/"+strings.TrimPrefix(o.Method, "/"))
	switch {
	case meta.Descriptor == nil:
		return intention.Set{}, Usagef("the contract has no method %q: write package.Service/Method", o.Method)
	case meta.Intentions == nil:
		return intention.Set{Default: intention.Allow, DefaultReason: "the contract has no intentions about " + meta.Service}, nil
	}
	set := *meta.Intentions
	set.Default = cmp.Or(set.Default, intention.Deny)
	for i := range set.Intentions {
		set.Intentions[i].Destination = o.Destination
	}
	return set, nil
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
	explained := explainSource(rules, o.Source, "/"+strings.TrimPrefix(o.Method, "/"), headers)
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

// explainSource takes the name of a service, or a SPIFFE id as a certificate has it.
func explainSource(rules *intention.Rules, source, fullMethod string, headers intention.Headers) intention.Explanation {
	if !strings.HasPrefix(source, "spiffe://") {
		return rules.Explain(source, fullMethod, headers)
	}
	byName := intention.Explanation{Decision: intention.Decision{
		Rule: "its identity", Reason: "no source is this id, and it is of no service in the default namespace and partition"}}
	if _, service, ok := caller.ServiceOf(source); ok {
		byName = rules.Explain(service, fullMethod, headers)
	}
	if rules.Method(fullMethod).FromID(source) == nil {
		return byName
	}
	explained := rules.Explain(source, fullMethod, headers)
	explained.Without = &byName.Decision
	return explained
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
