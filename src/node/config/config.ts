/** The configuration after loading: checked, with defaults filled in. schema.ts explains each key. */
import type { StageName } from '../../stages.ts';

export interface RuntimeConfig {
  binary: string;
  shim: string;
  shim_start: 'auto' | 'command';
  sandbox_mode: 'auto' | 'pause' | 'pinned';
  pods_per_shim: number;
  /** Never "": loading fills in <state>/runc. */
  runtime_root: string;
  privileged_without_host_devices: boolean;
  pod_annotations: string[];
  container_annotations: string[];
}

export interface Config {
  socket: string;
  root: string;
  state: string;
  default_runtime: string;
  cgroup_driver: 'auto' | 'cgroupfs' | 'systemd';
  refuse_missing_host_paths: string[];
  runtimes: Record<string, RuntimeConfig>;
  cni: {
    conf_dir: string;
    bin_dirs: string[];
    cache_dir: string;
    netns_dir: string;
    timeout_seconds: number;
    loopback: 'builtin' | 'plugin';
    /** Whether plugins run inside the daemon; "auto": where their programs are the reference plugins. */
    in_process: 'auto' | boolean;
    /** An IPv4 subnet, "auto", or "" for no built-in network. */
    builtin_subnet: string;
    ip_ranges_annotation: boolean;
    /** Whether what no attachment owns is given back. */
    gc: boolean;
  };
  images: {
    /** "" means the built-in pause image. */
    sandbox_image: string;
    /** Folders, separated by ":". */
    registry_config: string;
    max_downloads: number;
    progress_timeout_seconds: number;
    snapshotter: string;
    /** Of a proxy snapshotter. */
    snapshotter_socket: string;
    snapshotter_name: string;
    volatile: boolean;
    keep_blobs: boolean;
    /** A Kubernetes quantity; "": none. */
    quota: string;
    gc_high_percent: number;
    gc_low_percent: number;
    /** A file of rules; "": none. */
    signature_policy: string;
    /** Archives in it are imported at each start; "": none. */
    import_folder: string;
    /** A file in docker's config.json format; "": none. */
    credentials: string;
  };
  streaming: {
    /** host:port; port 0 means any free port. */
    listen: string;
    tls_cert: string;
    tls_key: string;
    idle_timeout_seconds: number;
  };
  metrics: {
    /** host:port; "" turns the endpoint off. */
    listen: string;
    containerd_names: boolean;
  };
  tracing: {
    /** URL; "" turns tracing off. */
    endpoint: string;
  };
  pipeline: {
    max_running: number;
    max_teardowns: number;
    max_queued: number;
    claim_ttl_seconds: number;
    realtime: boolean;
    limits: Record<StageName, number>;
  };
  log: {
    level: 'trace' | 'debug' | 'info' | 'warn' | 'error';
    max_container_line: number;
  };
}
