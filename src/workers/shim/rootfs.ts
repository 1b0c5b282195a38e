import { mkdirSync, rmdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { type Fd, openFd } from '../../sys/fd.ts';
import { mountIdMapped } from '../../sys/idmap.ts';
import { C } from '../../sys/libc.ts';
import { mount, unmount } from '../../sys/mount.ts';
import { mountsBelow } from '../../sys/mountinfo.ts';
import { overlayPath, overlayPaths } from '../../sys/overlay.ts';

/**
 * A mount in the form that containerd's snapshotters use: `type` overlay or bind (or any file system), options as in
 * fstab.
 */
export interface MountSpec {
  type: string;
  source: string;
  /** Path below the target of the whole list; left out or "" for the target itself. */
  target?: string;
  options: string[];
}

const FLAGS: Record<string, number> = {
  ro: C.MS_RDONLY,
  nosuid: C.MS_NOSUID,
  nodev: C.MS_NODEV,
  noexec: C.MS_NOEXEC,
  noatime: C.MS_NOATIME,
  relatime: C.MS_RELATIME,
  strictatime: C.MS_STRICTATIME,
  bind: C.MS_BIND,
  rbind: C.MS_BIND | C.MS_REC,
};
const NO_FLAG = new Set(['rw', 'suid', 'dev', 'exec', 'async', 'defaults']);
/** mount(2) takes one page of options with the final NUL. The limit is that of 4 KiB pages, on all machines. */
const MAX_DATA = 4095;
const O_PATH = 0o10000000;

/**
 * Mounts a list, in order, on `target`, which must exist. When a mount fails, the earlier ones are detached again. With
 * `userns` (the path of a user namespace) the mounts are read-only and idmapped to it. Throws NAMESPACE_FAILED.
 */
export function mountRootfs({ target, mounts, userns }: MountRootfs): void {
  const done: string[] = [];
  try {
    for (const spec of mounts) {
      const place = spec.target ? join(target, spec.target) : target;
      if (userns) mountInUserns(place, spec, userns);
      else mountOne(place, spec);
      done.push(place);
    }
  } catch (cause) {
    for (const place of done.reverse()) unmount(place);
    throw new SluiceError('NAMESPACE_FAILED', `nothing could be mounted on ${target}`, { cause });
  }
}

export interface MountRootfs {
  target: string;
  mounts: MountSpec[];
  userns?: string;
}

/**
 * Mounts an image volume on `target`, which is made with its parents. A folder that carries a mount already is left as
 * it is; one without a mount is what a daemon left that was killed between mkdir and mount. Throws NAMESPACE_FAILED.
 */
export function mountImageVolume(view: MountRootfs): void {
  const { target } = view;
  mkdirSync(dirname(target), { recursive: true, mode: 0o700 });
  mkdirSync(target, { recursive: true, mode: 0o755 });
  if (mountsBelow(target).includes(target)) return;
  try {
    mountRootfs(view);
  } catch (error) {
    rmdirSync(target);
    throw error;
  }
}

/** Undoes {@link mountRootfs}, also when it ran more than once. Idempotent. */
export function unmountRootfs({ target }: { target: string }): void {
  unmount(target);
}

function mountOne(target: string, { type, source, options }: MountSpec): void {
  let flags = type === 'bind' ? C.MS_BIND : 0;
  const rest: string[] = [];
  for (const option of options) {
    const flag = FLAGS[option];
    if (flag !== undefined) flags |= flag;
    else if (!NO_FLAG.has(option)) rest.push(option);
  }
  if ((flags & C.MS_BIND) !== 0) {
    if (rest.length > 0) throw new Error(`a bind mount does not take the options ${rest.join(',')}`);
    bind(source, target, flags);
    return;
  }
  if (Buffer.byteLength(rest.join(',')) <= MAX_DATA) {
    mount({ source, target, type, flags, data: rest.join(',') });
    return;
  }
  if (type !== 'overlay') throw new Error(`the options of this ${type} mount are longer than a page`);
  mountLongOverlay(target, flags, source, rest);
}

/**
 * overlayfs itself cannot be idmapped, its layers can: each is mounted under `<target>.layers`, on one tmpfs, until the
 * overlay is mounted and refers to them. Detaching the tmpfs detaches the layers' mounts too.
 */
function mountInUserns(target: string, spec: MountSpec, userns: string): void {
  if (spec.type === 'bind') {
    mountIdMapped({ source: spec.source, target, userns });
    return;
  }
  if (spec.type !== 'overlay') throw new Error(`a ${spec.type} mount cannot be mapped into a user namespace`);
  const passing = `${target}.layers`;
  mkdirSync(passing, { mode: 0o700 });
  try {
    mount({ source: 'tmpfs', target: passing, type: 'tmpfs' });
    const options = spec.options.map((option) => {
      if (!option.startsWith('lowerdir=')) return option;
      const layers = overlayPaths(option.slice('lowerdir='.length)).map((source, at) => {
        const layer = join(passing, String(at));
        mkdirSync(layer);
        mountIdMapped({ source, target: layer, userns });
        return layer;
      });
      return `lowerdir=${layers.map(overlayPath).join(':')}`;
    });
    mountOne(target, { ...spec, options });
  } finally {
    unmount(passing);
    rmdirSync(passing);
  }
}

/** A bind mount ignores the other flags; they take a second call with MS_REMOUNT. */
function bind(source: string, target: string, flags: number): void {
  const recursion = C.MS_BIND | C.MS_REC;
  mount({ source, target, flags: flags & recursion });
  if ((flags & ~recursion) === 0) return;
  try {
    mount({ source: '', target, flags: C.MS_REMOUNT | C.MS_BIND | (flags & ~recursion) });
  } catch (error) {
    unmount(target);
    throw error;
  }
}

/**
 * Mounts an overlay whose layers' paths exceed one page. Each layer is opened and given as /proc/self/fd/N, 18
 * characters at most, so that 128 layers (the most that an image may have) always fit. The kernel resolves the paths
 * during mount(2) and keeps references to the folders. fsconfig(2) has no limit for the sum, but needs Linux 6.8 for
 * this and takes at most 255 characters per path.
 */
function mountLongOverlay(target: string, flags: number, source: string, options: string[]): void {
  const opened: Fd[] = [];
  try {
    const data = options
      .map((option) => {
        if (!option.startsWith('lowerdir=')) return option;
        const layers = overlayPaths(option.slice('lowerdir='.length)).map((layer) => {
          const fd = openFd(layer, O_PATH);
          opened.push(fd);
          return `/proc/self/fd/${fd.number}`;
        });
        return `lowerdir=${layers.join(':')}`;
      })
      .join(',');
    if (Buffer.byteLength(data) > MAX_DATA) {
      throw new Error(`${opened.length} layers are more than one overlay mount can name`);
    }
    mount({ source, target, type: 'overlay', flags, data });
  } finally {
    for (const fd of opened) fd[Symbol.dispose]();
  }
}
