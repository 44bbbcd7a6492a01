// Package mixedtest runs programs of the previous release beside those of this tree, as a
// rolling upgrade does: on one Consul and one Redis, with calls, snapshots, pages and
// commands that cross from one release to the other in both directions.
package mixedtest
