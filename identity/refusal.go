package identity

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// Reason is why one end refused the other.
type Reason string

// The reasons, as they are in errors, logs and [Stats].
const (
	Expired          Reason = "expired"
	NotYetValid      Reason = "not_yet_valid"
	SelfSigned       Reason = "self_signed"
	UnknownAuthority Reason = "unknown_authority"
	BadCertificate   Reason = "bad_certificate" // of another use, a broken chain and the like
	BadID            Reason = "bad_spiffe_id"
	WrongTrustDomain Reason = "wrong_trust_domain"
	WrongPartition   Reason = "wrong_partition"
	WrongNamespace   Reason = "wrong_namespace"
	WrongDatacenter  Reason = "wrong_datacenter"
	WrongService     Reason = "wrong_service"
	NoCertificate    Reason = "no_certificate"
	OldTLS           Reason = "tls_version" // below 1.3
	SpeaksPlaintext  Reason = "plaintext"
	NoOwnCertificate Reason = "no_own_certificate" // this end has none, or one that has ended
	RefusedByPeer    Reason = "refused_by_peer"
	BrokenHandshake  Reason = "broken_handshake"
	UnknownService   Reason = "no_service_name"
)

// Reasons returns all of them.
func Reasons() []Reason {
	return []Reason{Expired, NotYetValid, SelfSigned, UnknownAuthority, BadCertificate, BadID, WrongTrustDomain, WrongPartition, WrongNamespace,
		WrongDatacenter, WrongService, NoCertificate, OldTLS, SpeaksPlaintext, NoOwnCertificate, RefusedByPeer, BrokenHandshake, UnknownService}
}

// Refusal is the error of a handshake.
type Refusal struct {
	Reason Reason
	ID     string // that the other end presented, verified or not; "" is none
	detail string
}

// Error says what was refused and why.
func (r *Refusal) Error() string {
	if r.ID == "" {
		return fmt.Sprintf("identity: %s: %s", r.Reason, r.detail)
	}
	return fmt.Sprintf("identity: %s: the certificate is of %.300q: %s", r.Reason, r.ID, r.detail)
}

func refuse(reason Reason, id, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, ID: id, detail: fmt.Sprintf(format, args...)}
}

// A port that anybody can reach must not fill the log: a reason has so many lines in a period.
const (
	linesPerPeriod = 10
	linePeriod     = 10 * time.Second
)

// refusals counts and logs them by reason.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex
	counts map[Reason]uint64
	lines  map[Reason]*lineBudget
}

type lineBudget struct {
	since            time.Time
	logged, withheld int
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, counts: map[Reason]uint64{}, lines: map[Reason]*lineBudget{}}
}

// record counts err, which is a *Refusal. side is "server" or "client", that of this end.
func (r *refusals) record(err error, side, peer string) {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return
	}
	r.mu.Lock()
	r.counts[refusal.Reason]++
	write, withheld := r.budget(refusal.Reason)
	r.mu.Unlock()
	if !write {
		return
	}
	attributes := []any{"side", side, "reason", string(refusal.Reason), "peer", peer, "error", refusal.Error()}
	if withheld > 0 {
		attributes = append(attributes, "lines_withheld", withheld)
	}
	r.log.Warn("a connection was refused", attributes...)
}

// budget reports whether a line may be written, and how many were not since the last one.
// The caller holds r.mu.
func (r *refusals) budget(reason Reason) (write bool, withheld int) {
	b := r.lines[reason]
	now := time.Now()
	if b == nil {
		b = &lineBudget{since: now}
		r.lines[reason] = b
	}
	if now.Sub(b.since) >= linePeriod {
		b.since, b.logged = now, 0
	}
	if b.logged == linesPerPeriod {
		b.withheld++
		return false, 0
	}
	b.logged++
	withheld, b.withheld = b.withheld, 0
	return true, withheld
}

func (r *refusals) byReason() map[Reason]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}
