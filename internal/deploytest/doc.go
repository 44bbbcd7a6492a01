// Package deploytest holds the tests of the files in deploy/ and of the Dockerfile: each is read
// by the library or the program that its platform has for it, and held to what the programs of
// cmd/ do.
package deploytest
