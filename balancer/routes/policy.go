package routes

// policy is that of a channel.
type policy struct{}
