package caller

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
)

// LogName is the identity of [Callers.Incoming] as a log may have it: what a certificate
// proves as it is, and of what an option declares the source and a hash, such as
// "metadata customer-id #d1c5f0a2", unless [WithLoggedIdentity] is given. The hash is the
// same for one identity as long as the process runs, and shows nothing else of it. "" is a
// caller without an identity, or with one that is an error.
func (c *Callers) LogName(ctx context.Context) string {
	identity, err := c.Incoming(ctx)
	switch {
	case err != nil || identity == "":
		return ""
	case c.Declares() && !c.logged:
		return fmt.Sprintf("%s #%x", c.Source(), hashed(identity))
	default:
		return identity
	}
}

// hashKey is this process's own, so that nobody can try out identities with a log.
var hashKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it ends the process rather than fail
	return key
})

func hashed(identity string) []byte {
	h := hmac.New(sha256.New, hashKey())
	h.Write([]byte(identity))
	return h.Sum(nil)[:4]
}
