# A gateway named gateway that registers itself. Without --register, client.hcl is enough.
service "gateway" {
  policy = "write"
}

# The services that it calls, with their nodes.
service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

# The address of its node.
agent_prefix "" {
  policy = "read"
}
