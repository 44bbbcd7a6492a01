# Who runs the command meshlite: services and intentions, nodes and agents, to read.
service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

agent_prefix "" {
  policy = "read"
}
