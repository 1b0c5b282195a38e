/** What the snapshotters of src/node/images/snapshotters have done to folders. */
import { chownSync, mkdirSync, readdirSync, renameSync, rmdirSync, symlinkSync, unlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { overlayPaths } from '../../sys/overlay.ts';
import { run } from '../../sys/spawn.ts';
import { measureTree, type Usage } from '../measure-tree.ts';
import { type MountSpec, mountRootfs, unmountRootfs } from '../shim/rootfs.ts';
import { native, toBytes } from './byte-paths.ts';
import { copyAttributes } from './copy-up.ts';
import type { FetchedLayer } from './fetch-layer.ts';
import { inheritAttributes } from './layers.ts';
import { mergeLayer } from './merge.ts';
import { settle, temporaryBeside } from './temporary.ts';
import { removeTree } from './tree.ts';

const COPY_SECONDS = 600;

/**
 * Makes one tree of layers (`fs` folders, bottom first) in `dir`/fs, of hard links to their files; nobody may write to
 * it. Returns what it takes on the disk besides the layers. One that is there already stays.
 */
export async function mergeLayers({ layers, dir }: { layers: string[]; dir: string }): Promise<Usage> {
  mkdirSync(dirname(dir), { recursive: true, mode: 0o700 });
  const temporary = temporaryBeside(dir);
  mkdirSync(join(temporary, 'fs'), { recursive: true, mode: 0o755 });
  try {
    for (const layer of layers) await mergeLayer(toBytes(layer), `${toBytes(temporary)}/fs`);
    const usage = await measureTree(temporary, { linked: false });
    await settle(temporary, dir);
    return usage;
  } catch (error) {
    await removeTree(toBytes(temporary));
    throw error;
  }
}

/**
 * Makes a writable copy of the tree `from` in `dir`/fs; file systems that can (btrfs, xfs) share the blocks. A copy
 * that a dead daemon has left unfinished is made anew. Throws DISK_FULL, INTERNAL.
 */
export async function copySnapshot({ from, dir }: { from: string; dir: string }): Promise<void> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const to = join(dir, 'fs');
  await removeTree(toBytes(to));
  await copyTree(from, to);
}

/** With owners, modes, times, links, devices and extended attributes, in a process of its own. */
async function copyTree(from: string, to: string): Promise<void> {
  const { code, stderr, timedOut } = await run({
    path: '/bin/cp',
    argv: ['cp', '-a', '--reflink=auto', '--no-target-directory', from, to],
    env: { LC_ALL: 'C', PATH: '/usr/bin:/bin' },
    timeoutMs: COPY_SECONDS * 1000,
  });
  if (code === 0) return;
  const why = timedOut ? `cp did not end within ${COPY_SECONDS} s` : stderr.toString().trim();
  const full = /No space left|quota exceeded/i.test(why);
  throw new SluiceError(full ? 'DISK_FULL' : 'INTERNAL', `${from} cannot be copied: ${why}`);
}

export interface FillSnapshot extends Pick<FetchedLayer, 'implied' | 'lowerLinks'> {
  /** The unpacked layer's folder, which holds `fs`; it is used up. */
  dir: string;
  /** Of the snapshot that becomes the layer, as its snapshotter gives them. */
  mounts: MountSpec[];
  /** A folder to mount them on where need be, made and removed here. */
  scratch: string;
}

/**
 * Puts an unpacked layer into a snapshot of another snapshotter: into the upper folder of an overlay as it is, into any
 * other file system so that what the layer hides is gone there. Throws what mounting and file work throws.
 */
export async function fillSnapshot({ dir, mounts, implied, lowerLinks, scratch }: FillSnapshot): Promise<void> {
  const from = `${toBytes(dir)}/fs`;
  const inherit = (parentDirs: string[]) => inheritAttributes({ dir, folders: implied, links: lowerLinks, parentDirs });
  const [only] = mounts;
  const upper = only && mounts.length === 1 ? upperOf(only) : undefined;
  if (upper) {
    inherit(upper.lower);
    await moveInto(from, toBytes(upper.dir));
    return;
  }
  if (only?.type === 'bind' && mounts.length === 1) {
    inherit([only.source]);
    await mergeLayer(from, toBytes(only.source));
    return;
  }
  mkdirSync(scratch, { recursive: true, mode: 0o700 });
  try {
    mountRootfs({ target: scratch, mounts });
    inherit([scratch]);
    await mergeLayer(from, toBytes(scratch));
  } finally {
    unmountRootfs({ target: scratch });
    rmdirSync(scratch);
  }
}

/** The writable folder of an overlay mount, and the folders below it, topmost first. */
function upperOf({ type, options }: MountSpec): { dir: string; lower: string[] } | undefined {
  const value = (name: string) => options.find((option) => option.startsWith(`${name}=`))?.slice(name.length + 1) ?? '';
  const [dir] = overlayPaths(value('upperdir'));
  return type === 'overlay' && dir !== undefined ? { dir, lower: overlayPaths(value('lowerdir')) } : undefined;
}

async function moveInto(from: string, to: string): Promise<void> {
  for (const name of readdirSync(native(from), { encoding: 'latin1' })) {
    try {
      renameSync(native(`${from}/${name}`), native(`${to}/${name}`));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
      // The snapshotter keeps its layers on another file system. cp takes the paths as bytes only where they are text.
      await copyTree(Buffer.from(from, 'latin1').toString(), Buffer.from(to, 'latin1').toString());
      return;
    }
  }
  copyAttributes(from, to);
}

/**
 * Has `fs` in the folder of a snapshot that another snapshotter keeps lead to its writable folder,
 * for those who measure it. `owner` is the host id of root in the pod's user namespace.
 */
export function linkSnapshot({
  dir,
  upper,
  owner,
}: {
  dir: string;
  upper: string;
  owner?: { uid: number; gid: number };
}): void {
  if (owner) chownSync(upper, owner.uid, owner.gid);
  const link = join(dir, 'fs');
  try {
    unlinkSync(link);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  symlinkSync(upper, link);
}
