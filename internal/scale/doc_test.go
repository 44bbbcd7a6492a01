// Package scale simulates meshes that are larger than a machine: every process has a real
// consul.Directory, resolver and balancer for each of its channels, and shares nothing with
// the others. What is simulated is below them, Consul's servers and the connections, and
// time, which is that of a testing/synctest bubble.
//
// The small mesh of the tests is held to exact counts. `make scale` plays the large one, of
// 1,000 services, 10,000 instances and 50,000 channels, and prints the tables of
// docs/growing.md. `make delays` is not simulated: it measures one process of many services at a
// real Consul.
package scale_test
