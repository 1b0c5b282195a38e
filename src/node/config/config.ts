/** The configuration once it is read, checked and completed; docs/operate/config.md and `sluice config default` explain each key. */
import type { StageName } from '../../stages.ts';

export interface RuntimeConfig {
  /** OCI runtime, a name to look up in PATH or an absolute path: runc, crun. */
  binary: string;
  /** Shim, likewise. */
  shim: string;
  /** "auto" does without the shim's start command where it can; "command" never does. */
  shim_start: 'auto' | 'command';
  /** "pause": a pause process holds the pod's namespaces. */
  sandbox_mode: 'pause';
  /** Runtime root (runc's --root); "" is <state>/runc. */
  runtime_root: string;
  privileged_without_host_devices: boolean;
  /** Pod annotations (patterns with *) that are copied into the OCI spec. */
  pod_annotations: string[];
  container_annotations: string[];
}

export interface Config {
  socket: string;
  root: string;
  state: string;
  default_runtime: string;
  /** "auto" takes systemd where systemd is PID 1. */
  cgroup_driver: 'auto' | 'cgroupfs' | 'systemd';
  runtimes: Record<string, RuntimeConfig>;
  cni: {
    conf_dir: string;
    bin_dirs: string[];
    /** libcni's folder: results are kept under <cache_dir>/results. */
    cache_dir: string;
    netns_dir: string;
    /** Seconds that one plugin may take. */
    timeout_seconds: number;
    /** "builtin" brings lo up without a process; "plugin" calls the loopback plugin, for set-ups that insist. */
    loopback: 'builtin' | 'plugin';
    /** Subnet of the built-in bridge network, used where conf_dir has no configuration; "auto" finds one, "" turns it off. */
    builtin_subnet: string;
  };
  images: {
    /** "" is the built-in pause image. */
    sandbox_image: string;
    /** Folders of hosts.toml folders, separated by ":". */
    registry_config: string;
    max_downloads: number;
    /** A pull without a new byte for so long is given up. */
    progress_timeout_seconds: number;
  };
  streaming: {
    /** host:port; port 0 takes any. */
    listen: string;
    tls_cert: string;
    tls_key: string;
    idle_timeout_seconds: number;
  };
  metrics: {
    /** host:port of the Prometheus endpoint; "" turns it off. */
    listen: string;
    /** Also export containerd's names for the same things. */
    containerd_names: boolean;
  };
  tracing: {
    /** OTLP/HTTP endpoint, for example http://127.0.0.1:4318; "" turns tracing off. */
    endpoint: string;
  };
  pipeline: {
    /** Launches at work at once, and image pulls likewise. */
    max_running: number;
    /** Stops and removes at work at once: they wait out grace periods, so far more than launches. */
    max_teardowns: number;
    max_queued: number;
    /** A finished launch whose callers are gone waits so long for the retry. */
    claim_ttl_seconds: number;
    /** How many of each stage run at once, over all jobs. */
    limits: Record<StageName, number>;
  };
  log: {
    level: 'trace' | 'debug' | 'info' | 'warn' | 'error';
    /** Bytes of content in one line of a container's log. */
    max_container_line: number;
  };
}
