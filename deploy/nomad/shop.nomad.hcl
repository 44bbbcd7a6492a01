# The shop on Nomad, with Consul's agent on every client: nomad job run deploy/nomad/shop.nomad.hcl
# README.md says what to change.

variable "image" {
  type    = string
  default = "registry.example/meshlite" # its catalog, inventory, storefront and gateway
}

variable "version" {
  type    = string
  default = "latest"
}

job "shop" {
  type = "service"

  spread {
    attribute = "${node.datacenter}"
  }

  # A canary of each group first; `nomad deployment promote` goes on with the rest. What does
  # not become healthy is taken back.
  update {
    max_parallel      = 1
    canary            = 1
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "10m"
    auto_revert       = true
    auto_promote      = false
  }

  group "catalog" {
    count = 3

    network {
      port "grpc" {}
      port "metrics" {}
    }

    # The program registers itself, as "catalog". This registration is for Nomad: its check is
    # what a deployment waits for, and its tags name the canaries. Clients that are to follow
    # the tags call consul:///nomad-catalog?tag=live.
    service {
      name        = "nomad-catalog"
      port        = "grpc"
      tags        = ["live"]
      canary_tags = ["canary"]

      check {
        type     = "grpc"
        interval = "2s"
        timeout  = "1s"
      }
    }

    # Between leaving Consul and kill_signal: clients of nomad-catalog are notified meanwhile.
    shutdown_delay = "2s"

    task "program" {
      driver = "docker"
      user   = "65532"

      config {
        image           = "${var.image}/catalog:${var.version}"
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        args = [
          "--advertise=${NOMAD_IP_grpc}",
          "--reflection",
        ]
      }

      env {
        MESHLITE_LISTEN_ADDRESS  = "${NOMAD_ADDR_grpc}"
        # Off loopback it answers with metrics and health alone, until
        # MESHLITE_ADMIN_TOKEN_FILE names a file with a token, of a template into secrets/.
        MESHLITE_METRICS_ADDRESS = "${NOMAD_ADDR_metrics}"
        MESHLITE_REGION          = "${node.region}"
        MESHLITE_ZONE            = "${node.datacenter}"
      }

      kill_signal  = "SIGTERM"
      kill_timeout = "25s" # longer than a drain takes

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }

  group "inventory" {
    count = 2

    network {
      port "grpc" {}
      port "metrics" {}
    }

    service {
      name        = "nomad-inventory"
      port        = "grpc"
      tags        = ["live"]
      canary_tags = ["canary"]

      check {
        type     = "grpc"
        interval = "2s"
        timeout  = "1s"
      }
    }

    shutdown_delay = "2s"

    task "program" {
      driver = "docker"
      user   = "65532"

      config {
        image           = "${var.image}/inventory:${var.version}"
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        args = [
          "--advertise=${NOMAD_IP_grpc}",
          "--reflection",
        ]
      }

      env {
        MESHLITE_LISTEN_ADDRESS  = "${NOMAD_ADDR_grpc}"
        MESHLITE_METRICS_ADDRESS = "${NOMAD_ADDR_metrics}"
        MESHLITE_REGION          = "${node.region}"
        MESHLITE_ZONE            = "${node.datacenter}"
      }

      kill_signal  = "SIGTERM"
      kill_timeout = "25s"

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }

  group "storefront" {
    count = 2

    network {
      port "grpc" {}
      port "metrics" {}
    }

    service {
      name        = "nomad-storefront"
      port        = "grpc"
      tags        = ["live"]
      canary_tags = ["canary"]

      check {
        type     = "grpc"
        interval = "2s"
        timeout  = "1s"
      }
    }

    shutdown_delay = "2s"

    task "program" {
      driver = "docker"
      user   = "65532"

      config {
        image           = "${var.image}/storefront:${var.version}"
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        args = [
          "--advertise=${NOMAD_IP_grpc}",
          "--reflection",
        ]
      }

      env {
        MESHLITE_LISTEN_ADDRESS  = "${NOMAD_ADDR_grpc}"
        MESHLITE_METRICS_ADDRESS = "${NOMAD_ADDR_metrics}"
        MESHLITE_REGION          = "${node.region}"
        MESHLITE_ZONE            = "${node.datacenter}"
      }

      kill_signal  = "SIGTERM"
      kill_timeout = "25s"

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }

  group "gateway" {
    count = 2

    constraint {
      distinct_hosts = true # both have the same port
    }

    network {
      port "http" {
        static = 8080
      }
      port "metrics" {}
    }

    # The gateway has no registration of its own here: HAProxy and NGINX find this one.
    service {
      name        = "gateway"
      port        = "http"
      tags        = ["http"]
      canary_tags = ["canary"]

      check {
        type     = "http"
        path     = "/readyz"
        interval = "2s"
        timeout  = "1s"
      }
    }

    shutdown_delay = "2s"

    task "program" {
      driver = "docker"
      user   = "65532"

      config {
        image           = "${var.image}/gateway:${var.version}"
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        args = [
          "--trusted-proxies=10.0.0.0/8",
          "--plaintext",
          "catalog",
          "storefront",
        ]
      }

      env {
        MESHLITE_LISTEN_ADDRESS  = "${NOMAD_ADDR_http}"
        MESHLITE_METRICS_ADDRESS = "${NOMAD_ADDR_metrics}"
        MESHLITE_REGION          = "${node.region}"
        MESHLITE_ZONE            = "${node.datacenter}"
      }

      kill_signal  = "SIGTERM"
      kill_timeout = "25s"

      resources {
        cpu    = 300
        memory = 256
      }
    }
  }
}
