# A program that only calls: it lists the instances of services, with their nodes.
service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}
