"""The launcher: a registry, engines and a router on this machine, started, watched and stopped together."""
