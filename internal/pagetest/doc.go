// Package pagetest holds the tests of the gateway's OpenAPI document and page that need a
// validator of OpenAPI, a browser and axe-core. It is a module of its own, so that none of
// them reaches users of meshlite.
package pagetest
