// Package migratetest moves services from other frameworks to meshlite: programs from before
// and after, and a test that runs both kinds at once. It is a module of its own, so that the
// frameworks never reach users of meshlite.
package migratetest
