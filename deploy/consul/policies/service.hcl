# A server named catalog: it registers itself, has its certificate signed, reads its
# intentions and its leases. Write your service's name.
service "catalog" {
  policy = "write"
}

# Its replicas, which share limits, are listed with their nodes.
node_prefix "" {
  policy = "read"
}

# The address of its node, and the default of intentions.
agent_prefix "" {
  policy = "read"
}
