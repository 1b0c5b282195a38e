import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { explain, isOutOfSpace } from '../../errors.ts';
import { SysError } from '../../sys/libc.ts';
import { mount, unmount } from '../../sys/mount.ts';
import { overlayPath } from '../../sys/overlay.ts';
import { removeWithMounts } from './remove-bundle.ts';

const TRIAL = 'overlay-trial';
/** ENODEV of mount(2): the kernel has no file system of that name. */
const ENODEV = 19;

/**
 * Why containers can have no overlay with a writable layer below `root`, as a list of at most one reason, found by
 * mounting one: file systems that cannot hold one (another overlay, NFS, an xfs without ftype, FUSE) are refused with a
 * bare EINVAL when the first container starts. Undefined when the disk is full, which says nothing about it. Throws
 * Node's errors for a root that cannot be written.
 */
export async function tryOverlay({ root }: { root: string }): Promise<string[] | undefined> {
  const trial = join(root, TRIAL);
  const folder = (name: string) => join(trial, name);
  await removeWithMounts(trial, ['merged']); // of a daemon that was killed meanwhile
  try {
    for (const path of [trial, ...['lower', 'upper', 'work', 'merged'].map(folder)]) mkdirSync(path, 0o700);
    const [lower, upper, work] = ['lower', 'upper', 'work'].map((name) => overlayPath(folder(name)));
    const data = `index=off,lowerdir=${lower},upperdir=${upper},workdir=${work}`;
    mount({ source: 'overlay', target: folder('merged'), type: 'overlay', data });
    unmount(folder('merged'));
    return [];
  } catch (error) {
    if (error instanceof Error && isOutOfSpace(error)) return undefined;
    if (!(error instanceof SysError)) throw error;
    const why =
      error.errno === ENODEV
        ? 'the kernel has no overlayfs (modprobe overlay)'
        : `the file system of ${root} takes no overlay (${explain(error)}): it has to be a local one, such as ext4, xfs with ftype=1 or btrfs`;
    return [`${why}; images.snapshotter = "native" does without`];
  } finally {
    await removeWithMounts(trial, ['merged']);
  }
}
