package policyv1

import _ "embed"

// Source is the text of policy.proto, for whoever imports it into a contract.
//
//go:embed policy.proto
var Source string
