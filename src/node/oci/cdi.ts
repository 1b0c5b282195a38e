import type { ContainerConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { isObject } from '../../workers/json.ts';
import { envList, putEnv } from './args.ts';
import { editsProblem } from './check-cdi.ts';
import { allowRule, deviceNode, type GrantedDevice } from './devices.ts';
import { outerFirst } from './mounts.ts';
import type { Hook, HookName, Mount, Spec } from './types.ts';
import { parseYaml } from './yaml.ts';

/**
 * `containerEdits` of a CDI file, under its own field names.
 * Source: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
 */
export interface RawEdits {
  env?: string[];
  deviceNodes?: RawDevice[];
  mounts?: { hostPath: string; containerPath: string; options?: string[]; type?: string }[];
  hooks?: { hookName: HookName; path: string; args?: string[]; env?: string[]; timeout?: number }[];
  intelRdt?: Record<string, unknown>;
  additionalGids?: number[];
}

export interface RawDevice {
  path: string;
  hostPath?: string;
  type?: 'b' | 'c' | 'u' | 'p';
  major?: number;
  minor?: number;
  fileMode?: number;
  permissions?: string;
  uid?: number;
  gid?: number;
}

interface CdiSpec {
  cdiVersion: string;
  /** "vendor.com/class". */
  kind: string;
  devices: { name: string; containerEdits: RawEdits }[];
  /** Edits for every container that gets one of the devices. */
  containerEdits?: RawEdits;
}

export interface CdiRegistry {
  /** Devices by qualified name, "vendor.com/class=name". */
  devices: ReadonlyMap<string, { spec: CdiSpec; edits: RawEdits; path: string; priority: number }>;
  /**
   * Paths by qualified name, for names that several files of the same priority define; such a device cannot be used.
   */
  conflicts: ReadonlyMap<string, string[]>;
  /** Error texts of the files that could not be parsed. */
  errors: readonly string[];
}

/**
 * The edits of all devices of a container, merged, with type and numbers of each device node read from the host
 * (read-cdi.ts).
 */
export interface CdiEdits {
  env: string[];
  devices: GrantedDevice[];
  mounts: Mount[];
  hooks: { name: HookName; hook: Hook }[];
  additionalGids: number[];
  intelRdt?: Record<string, unknown>;
}

/** Largest CDI file that is read, in bytes. Generated files are far smaller. */
export const MAX_CDI_BYTES = 1 << 20;

/**
 * Parses a CDI file: JSON when its name ends in .json, YAML otherwise. Rejects with INVALID_REQUEST, whose text says
 * what is wrong.
 */
export async function parseCdiSpec(text: string, path: string): Promise<CdiSpec> {
  if (Buffer.byteLength(text) > MAX_CDI_BYTES) {
    throw new SluiceError('INVALID_REQUEST', `CDI file ${path} is larger than ${MAX_CDI_BYTES} bytes`);
  }
  let value: unknown;
  try {
    const json = path.endsWith('.json') ? text : (JSON.stringify(await parseYaml(text)) ?? '');
    // As in Go, null is the same as an absent field. (A list keeps it: a hole in it would pass every check.)
    value = JSON.parse(json, function (this: unknown, _key, each) {
      return each === null && !Array.isArray(this) ? undefined : each;
    });
  } catch (cause) {
    throw new SluiceError('INVALID_REQUEST', `CDI file ${path} cannot be parsed`, { cause });
  }
  const spec = value as Partial<CdiSpec> | undefined;
  const bad = (what: string) => new SluiceError('INVALID_REQUEST', `CDI file ${path}: ${what}`);
  if (!isObject(spec)) throw bad('is not an object');
  if (typeof spec.cdiVersion !== 'string') throw bad('has no cdiVersion');
  if (typeof spec.kind !== 'string' || !/^[A-Za-z][\w.-]*\/[A-Za-z][\w.-]*$/.test(spec.kind)) {
    throw bad(`kind "${spec.kind}" is not of the form vendor.com/class`);
  }
  if (!Array.isArray(spec.devices)) throw bad('has no devices');
  if (spec.devices.length === 0) throw bad('has no devices');
  for (const device of spec.devices) {
    if (typeof device?.name !== 'string' || !/^[A-Za-z0-9][\w.:-]*$/.test(device.name)) {
      throw bad(`"${device?.name}" is not a valid device name`);
    }
    // Mostly a driver that found no device when it wrote the file. The CDI project's own cache refuses such a file
    // whole.
    if (isEmpty(device.containerEdits)) throw bad(`device "${device.name}" has no containerEdits`);
  }
  for (const edits of [spec.containerEdits, ...spec.devices.map(({ containerEdits }) => containerEdits)]) {
    const problem = editsProblem(edits);
    if (problem) throw bad(problem);
  }
  return spec as CdiSpec;
}

/** True when the edits change nothing: absent, or every list in them empty. */
function isEmpty(edits: RawEdits | undefined): boolean {
  return Object.values(edits ?? {}).every((value) => Array.isArray(value) && value.length === 0);
}

/**
 * The devices of all files. Of two files with different priorities that define one name, the higher priority wins. With
 * equal priorities (the same folder) the name is a conflict, which only a request for that device reports.
 */
export async function cdiRegistry(
  files: readonly { path: string; text: string; priority: number }[],
): Promise<CdiRegistry> {
  const devices = new Map<string, { spec: CdiSpec; edits: RawEdits; path: string; priority: number }>();
  const conflicts = new Map<string, string[]>();
  const errors: string[] = [];
  for (const { path, text, priority } of files.toSorted((a, b) => a.priority - b.priority)) {
    let spec: CdiSpec;
    try {
      spec = await parseCdiSpec(text, path);
    } catch (error) {
      const { message, cause } = error as Error;
      errors.push(cause instanceof Error ? `${message}: ${cause.message}` : message);
      continue;
    }
    for (const { name, containerEdits = {} } of spec.devices) {
      const qualified = `${spec.kind}=${name}`;
      const old = devices.get(qualified);
      if (old?.priority === priority) conflicts.set(qualified, [...(conflicts.get(qualified) ?? [old.path]), path]);
      else conflicts.delete(qualified);
      devices.set(qualified, { spec, edits: containerEdits, path, priority });
    }
  }
  return { devices, conflicts, errors };
}

/**
 * Qualified names of the CDI devices that a container requests: CDIDevices first, then the older annotations, without
 * duplicates.
 */
export function cdiDeviceNames(config: Pick<ContainerConfig, 'CDIDevices' | 'annotations'>): string[] {
  const names = new Set(config.CDIDevices.map(({ name }) => name));
  for (const [key, value] of Object.entries(config.annotations)) {
    if (key.startsWith('cdi.k8s.io/')) for (const name of value.split(',')) names.add(name.trim());
  }
  return [...names];
}

/**
 * The edits for these devices. Those that a file has for all of its devices come once, before those of its devices.
 * Throws INVALID_REQUEST that lists the devices which no file defines, or names the files that define one twice.
 */
export function cdiEdits(registry: CdiRegistry, names: readonly string[]): RawEdits[] {
  const missing = names.filter((name) => !registry.devices.has(name));
  if (missing.length > 0) {
    const because = registry.errors.length > 0 ? ` (files that could not be read: ${registry.errors.join('; ')})` : '';
    throw new SluiceError('INVALID_REQUEST', `unresolvable CDI devices ${missing.join(', ')}${because}`);
  }
  const specs = new Set<CdiSpec>();
  const all: RawEdits[] = [];
  for (const name of names) {
    const conflict = registry.conflicts.get(name);
    if (conflict !== undefined) {
      throw new SluiceError(
        'INVALID_REQUEST',
        `CDI device ${name} is defined by several files: ${conflict.join(', ')}`,
      );
    }
    const device = registry.devices.get(name);
    if (device === undefined) continue;
    if (!specs.has(device.spec) && device.spec.containerEdits !== undefined) all.push(device.spec.containerEdits);
    specs.add(device.spec);
    all.push(device.edits);
  }
  return all;
}

/** Applies resolved edits to `spec`, in place. Call it last: CDI edits override what the request and the image set. */
export function applyCdi(spec: Spec, edits: CdiEdits): void {
  const env = new Map<string, string>();
  putEnv(env, spec.process.env);
  putEnv(env, edits.env);
  spec.process.env = envList(env);

  const { user } = spec.process;
  const groups = edits.additionalGids.filter((gid) => gid !== 0 && !user.additionalGids.includes(gid));
  user.additionalGids = [...user.additionalGids, ...new Set(groups)];

  for (const granted of edits.devices) {
    const device = deviceNode(granted);
    // Without an owner the node belongs to root, and a container that runs as another user could not open it.
    if (user.uid > 0) device.uid ??= user.uid;
    if (user.gid > 0) device.gid ??= user.gid;
    spec.linux.devices = [...(spec.linux.devices ?? []).filter(({ path }) => path !== device.path), device];
    if (granted.type !== 'p') {
      spec.linux.resources.devices = [...(spec.linux.resources.devices ?? []), allowRule(device, granted.permissions)];
    }
  }
  if (edits.mounts.length > 0) {
    const replaced = new Set(edits.mounts.map(({ destination }) => destination));
    spec.mounts = outerFirst([...spec.mounts.filter(({ destination }) => !replaced.has(destination)), ...edits.mounts]);
  }
  for (const { name, hook } of edits.hooks) {
    spec.hooks ??= {};
    spec.hooks[name] = [...(spec.hooks[name] ?? []), hook];
  }
  if (edits.intelRdt !== undefined) spec.linux.intelRdt = edits.intelRdt;
}
