package consul

// Stats counts what a directory has done since it was made. Directories of other
// agents that were made by [Directory.At] count for themselves.
type Stats struct {
	Agent           string // its address
	Requests        uint64 // sent to the agent, blocking queries among them
	Failures        uint64 // of these: not answered, or answered by an error
	Reregistrations uint64 // what the agent had forgotten or changed, and was told anew
	Watches         int    // open now
	Registrations   int    // kept now
}
