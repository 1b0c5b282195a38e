/**
 * The parts of the OCI runtime specification 1.2 that Sluice writes (https://github.com/opencontainers/runtime-spec).
 * Field names are those of the specification, so a Spec serialises to config.json. All types are plain data and survive
 * structured clone.
 */

/** A 64-bit integer: a number where it is a safe integer, else a bigint. {@link encodeSpec} serialises both. */
export type Int64 = number | bigint;

export interface Spec {
  ociVersion: string;
  process: Process;
  root: { path: string; readonly: boolean };
  hostname?: string;
  mounts: Mount[];
  hooks?: Hooks;
  annotations: Record<string, string>;
  linux: Linux;
}

export interface Process {
  terminal: boolean;
  user: User;
  args: string[];
  /** Each "NAME=value". */
  env: string[];
  cwd: string;
  capabilities: Capabilities;
  rlimits?: Rlimit[];
  noNewPrivileges: boolean;
  apparmorProfile?: string;
  /** -1000 to 1000. */
  oomScoreAdj?: number;
  selinuxLabel?: string;
}

export interface User {
  uid: number;
  gid: number;
  additionalGids: number[];
}

export interface Capabilities {
  bounding: string[];
  effective: string[];
  permitted: string[];
  inheritable: string[];
  ambient: string[];
}

export interface Rlimit {
  type: string;
  soft: number;
  hard: number;
}

export interface Mount {
  destination: string;
  type: string;
  source: string;
  options: string[];
  /** Makes this an idmapped mount (specification 1.1). */
  uidMappings?: IdMapping[];
  gidMappings?: IdMapping[];
}

export interface IdMapping {
  containerID: number;
  hostID: number;
  size: number;
}

export type HookName = 'prestart' | 'createRuntime' | 'createContainer' | 'startContainer' | 'poststart' | 'poststop';

export interface Hook {
  path: string;
  args?: string[];
  env?: string[];
  /** Seconds. */
  timeout?: number;
}

type Hooks = Partial<Record<HookName, Hook[]>>;

export interface Linux {
  uidMappings?: IdMapping[];
  gidMappings?: IdMapping[];
  sysctl?: Record<string, string>;
  resources: Resources;
  cgroupsPath: string;
  namespaces: Namespace[];
  devices?: Device[];
  seccomp?: Seccomp;
  rootfsPropagation?: 'rprivate' | 'rslave' | 'rshared';
  maskedPaths: string[];
  readonlyPaths: string[];
  mountLabel?: string;
  intelRdt?: Record<string, unknown>;
}

type NamespaceType = 'pid' | 'network' | 'mount' | 'ipc' | 'uts' | 'user' | 'cgroup';

export interface Namespace {
  type: NamespaceType;
  /** The namespace to join; without a path the runtime creates one. */
  path?: string;
}

export interface Device {
  path: string;
  /** Character device, block device, FIFO, unbuffered character device. */
  type: 'c' | 'b' | 'p' | 'u';
  major: number;
  minor: number;
  /** Permission bits. */
  fileMode?: number;
  uid?: number;
  gid?: number;
}

export interface DeviceRule {
  allow: boolean;
  /** All types when undefined. */
  type?: 'a' | 'c' | 'b';
  major?: number;
  minor?: number;
  /** One or more of "r", "w" and "m" (mknod). */
  access: string;
}

export interface Resources {
  devices?: DeviceRule[];
  memory?: { limit?: Int64; swap?: Int64 };
  cpu?: {
    shares?: Int64;
    /** Microseconds per period; -1 means no limit. */
    quota?: Int64;
    /** Microseconds. */
    period?: Int64;
    cpus?: string;
    mems?: string;
  };
  hugepageLimits?: { pageSize: string; limit: Int64 }[];
  /** Contents of cgroup v2 files, by file name. */
  unified?: Record<string, string>;
}

export interface Seccomp {
  defaultAction: string;
  defaultErrnoRet?: number;
  architectures?: string[];
  flags?: string[];
  listenerPath?: string;
  listenerMetadata?: string;
  syscalls?: SeccompRule[];
}

export interface SeccompRule {
  names: string[];
  action: string;
  errnoRet?: number;
  /** Conditions, of which all must hold. */
  args?: SeccompArg[];
}

export interface SeccompArg {
  index: number;
  value: Int64;
  valueTwo?: Int64;
  op: string;
}
