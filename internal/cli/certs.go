package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/doctor"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// CertsOptions are those of [Certs].
type CertsOptions struct {
	Services []string // empty is all that are registered
	Agent    string   // host:port; empty is the one that the environment names
	Format   Format
}

// certificateReport is one service as JSON.
type certificateReport struct {
	Service   string       `json:"service"`
	ID        string       `json:"id"`
	NotBefore time.Time    `json:"not_before,omitzero"`
	NotAfter  time.Time    `json:"not_after,omitzero"`
	DaysLeft  float64      `json:"days_left"`
	Roots     []rootReport `json:"roots"`
	Result    string       `json:"result"` // passed, failed
	Error     string       `json:"error"`
}

type rootReport struct {
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
	DaysLeft float64   `json:"days_left"`
	Signed   bool      `json:"signed"` // the certificate is of it
	Result   string    `json:"result"`
}

const (
	// closeRoot is how long before its end a root should be rotated.
	closeRoot = 30 * 24 * time.Hour
	day       = 24 * time.Hour
)

// Certs asks the agent for the certificate of each service, as a process of it does, and fails
// if one cannot be had or is close to its end.
func Certs(ctx context.Context, o CertsOptions, streams Streams) error {
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	names := o.Services
	if len(names) == 0 {
		if names, err = directory.ServiceNames(ctx, ""); err != nil {
			return err
		}
	}
	reports := make([]certificateReport, len(names))
	each(len(names), maxAsks, func(i int) { reports[i] = certificateOf(ctx, directory, names[i]) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if o.Format == JSON {
		err = WriteJSON(streams.Out, map[string][]certificateReport{"certificates": reports})
	} else {
		err = writeCertificates(streams.Out, reports)
	}
	bad := 0
	for _, r := range reports {
		if r.Result != doctor.Passed {
			bad++
		}
	}
	switch {
	case err != nil:
		return err
	case len(reports) == 0:
		return fmt.Errorf("%s has no service: name those whose certificates are to be looked at", directory.Name())
	case bad > 0:
		return fmt.Errorf("%d of %d certificates are not good", bad, len(reports))
	}
	return nil
}

func certificateOf(ctx context.Context, directory *consul.Directory, service string) certificateReport {
	r := certificateReport{Service: service, Roots: []rootReport{}, Result: doctor.Failed}
	creds, end, err := Security{Identity: service}.Credentials(directory, slog.New(slog.DiscardHandler))
	if err != nil {
		r.Error = err.Error()
		return r
	}
	defer end()
	if err := awaitCertificate(ctx, creds); err != nil {
		r.Error = err.Error()
		return r
	}
	current, err := creds.(*identity.Credentials).Current()
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.describe(current, time.Now())
	return r
}

// describe fills in what a certificate says, and whether it is good at a time.
func (r *certificateReport) describe(s *identity.Snapshot, now time.Time) {
	leaf := s.Leaf()
	r.ID, r.NotBefore, r.NotAfter, r.DaysLeft = s.ID().String(), leaf.NotBefore, leaf.NotAfter, daysLeft(leaf, now)
	r.Result = doctor.Passed
	if s.IsOverdue(now) {
		r.Result, r.Error = doctor.Failed, "it should have been renewed by now: see the log of the agent"
	}
	if now.Before(leaf.NotBefore) {
		r.Result, r.Error = doctor.Failed, "it is not valid yet: compare this machine's clock with that of Consul's servers"
	}
	for _, root := range s.Roots() {
		one := rootReport{Name: root.Subject.CommonName, NotAfter: root.NotAfter, DaysLeft: daysLeft(root, now), Signed: s.SignedBy(root), Result: doctor.Passed}
		if root.NotAfter.Sub(now) < closeRoot {
			one.Result = doctor.Failed
			if one.Signed && r.Result == doctor.Passed {
				r.Result, r.Error = doctor.Failed, fmt.Sprintf("its root ends on %s: rotate the root by `consul connect ca set-config`", root.NotAfter.Format(time.DateOnly))
			}
		}
		r.Roots = append(r.Roots, one)
	}
	slices.SortStableFunc(r.Roots, func(a, b rootReport) int { return a.NotAfter.Compare(b.NotAfter) })
}

func daysLeft(c *x509.Certificate, now time.Time) float64 {
	return float64(c.NotAfter.Sub(now)) / float64(day)
}

func writeCertificates(out io.Writer, reports []certificateReport) error {
	marks := map[string]string{doctor.Passed: "✓", doctor.Failed: "✗"}
	for _, r := range reports {
		switch {
		case r.ID == "":
			fmt.Fprintf(out, "✗ %s: no certificate\n", oneLine(r.Service))
		default:
			fmt.Fprintf(out, "%s %s: until %s, %.1f days left\n    %s\n", marks[r.Result], oneLine(r.Service), r.NotAfter.UTC().Format(time.RFC3339), r.DaysLeft, oneLine(r.ID))
		}
		if r.Error != "" {
			fmt.Fprintf(out, "    %s\n", oneLine(r.Error))
		}
		for _, root := range r.Roots {
			signed := "trusted"
			if root.Signed {
				signed = "signed it"
			}
			if _, err := fmt.Fprintf(out, "  %s root %s (%s): until %s, %.0f days left\n", marks[root.Result], oneLine(root.Name), signed, root.NotAfter.UTC().Format(time.DateOnly), root.DaysLeft); err != nil {
				return err
			}
		}
	}
	return nil
}
