package interceptors

// Alone is a [Chain] of one concern, for its use without others: it follows the policies
// like a longer chain. It panics without policies, and where the concern has no part on
// that side.
func Alone(side Side, policies *Policies, concern Concern) *Chained {
	chain, err := Chain(side, policies, concern)
	if err != nil {
		panic(err)
	}
	return chain
}
