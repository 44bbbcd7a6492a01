package doctor

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// checkFix is what to do where an instance is well and a check of it in Consul is not:
// about its certificate if that is why, else about the way from the agent. Consul may
// publish what a check says minutes after its state.
func checkFix(e consul.Entry, overTLS bool) string {
	for _, c := range e.Checks {
		if c.Status == catalog.Passing {
			continue
		}
		if fix := tlsFix(c.Output); fix != "" {
			return "clients leave it out while enough others are healthy: " + fix
		}
	}
	if overTLS {
		return fmt.Sprintf("clients leave it out while enough others are healthy: can the agent on node %s reach what the check asks, and verify its certificate by the name that it asks for? Its log says", orNone(e.Node))
	}
	return fmt.Sprintf("clients leave it out while enough others are healthy: can the agent on node %s reach what the check asks?", orNone(e.Node))
}

// tlsFix goes by what the agent's gRPC and crypto/tls say, which have no codes for it.
func tlsFix(output string) string {
	has := func(part string) bool { return strings.Contains(output, part) }
	switch {
	case wrongName(output):
		return fmt.Sprintf("its check asks for the name %s, which its certificate does not prove: issue one with that name, or let the check ask for a name that it proves, by CheckServerName of meshlite.WithRegistration",
			cmp.Or(wantedName(output), "of its address"))
	case has("signed by unknown authority"):
		return "its check does not trust the authority of its certificate: add it to the roots of the agent's machine, or let the check take any certificate, by CheckSkipVerify of meshlite.WithRegistration"
	case has("certificate has expired"):
		return "its certificate is not valid now: renew it, and look at the agent's clock"
	case has("certificate required"), has("bad certificate"):
		return "it demands a client's certificate, which the agent has not: answer checks apart by meshlite.WithHealthListener, or set the TTL of meshlite.WithRegistration"
	case has("first record does not look like a TLS handshake"):
		return "its check speaks TLS, and it speaks plaintext: register it with a check without TLS"
	default:
		return ""
	}
}

// wrongName reports what crypto/x509 says of a name that a certificate does not prove.
func wrongName(message string) bool {
	return strings.Contains(message, "x509: certificate is valid for") || strings.Contains(message, "x509: certificate is not valid for any names") ||
		strings.Contains(message, "x509: cannot validate certificate for")
}

// wantedName is the name that was asked for, as crypto/x509 writes it.
func wantedName(message string) string {
	for _, phrase := range []string{"but wanted to match ", "cannot validate certificate for ", ", not "} {
		if at := strings.LastIndex(message, phrase); at >= 0 {
			name, _, _ := strings.Cut(message[at+len(phrase):], " ")
			return strings.TrimRight(name, `",.;)`)
		}
	}
	return ""
}
