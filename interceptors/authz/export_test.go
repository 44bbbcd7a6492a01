package authz

// ServiceOf is for the comparison with package identity.
var ServiceOf = serviceOf
