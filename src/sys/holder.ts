/**
 * A mount namespace in which bind mounts hold namespaces, out of the sight of everybody else. Each line of the host's
 * mount table costs every process that makes a mount namespace or reads the table, a runtime above all (0.15 ms of CPU
 * for each launch and thousand lines, several times over), so a namespace that nobody needs to find in a folder of the
 * host does not stand there.
 *
 * A folder of the host has two things: `mnt`, on which the mount namespace itself is bind-mounted, so that it outlives
 * every process, and `ns`, a symbolic link to its root by way of a descriptor of the daemon. Through the link anybody
 * with root's rights finds `ns/<name>` as if it were mounted there, as long as the daemon runs; the next daemon sets
 * the link anew. Only mounting and unmounting have to be done inside.
 */
import { constants, mkdirSync, renameSync, rmdirSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type Fd, openFd } from './fd.ts';
import { namesInSync, removeFileSync } from './folder.ts';
import { C, check, libc, SysError } from './libc.ts';
import { isNsfs, mount, unmount } from './mount.ts';
import { attachTree, cloneTree } from './mount-tree.ts';
import { onProcessor, ownProcessors } from './processors.ts';
import { StrandedThread } from './stranded-thread.ts';

const MNT = 'mnt';
const LINK = 'ns';
/** Name of the folder, by which a path in it is told from others. */
export const HOLDER = 'held';
/** Flags of a descriptor that names a folder and reads nothing of it. O_DIRECTORY differs between architectures. */
const FOLDER = C.O_PATH | constants.O_DIRECTORY;
/** Most bytes of a file system that has nothing but empty files. */
const OPTIONS = 'mode=700,size=64k,nr_inodes=0';

/** A descriptor of the root of each holder that this thread has opened, by its folder. It outlives the thread. */
const roots = new Map<string, Fd>();

/** The folder of the holder that the namespace at `path` is in; undefined for a path elsewhere. */
export function holderOf(path: string): string | undefined {
  const link = dirname(path);
  const folder = dirname(link);
  return basename(link) === LINK && basename(folder) === HOLDER ? folder : undefined;
}

/** The path of the namespace `name` in the holder of `folder`. */
export const heldPath = (folder: string, name: string): string => join(folder, LINK, name);

/**
 * Finds the holder of `folder`, or makes it (2 ms), and sets the link to it. Whatever a killed process has left of an
 * unfinished one is replaced. Throws {@link SysError}, and leaves nothing then, where the kernel refuses it: on a root
 * that is no mount (chroot), without its right, or before Linux 5.2, which cannot move a mount into it.
 */
export function openHolder(folder: string): void {
  cloneTree('/proc/self/ns/uts')[Symbol.dispose](); // as hold() does
  const mnt = join(folder, MNT);
  if (!isNsfs(mnt)) makeHolder(folder);
  const root = inHolder(folder, () => openFd('/', FOLDER));
  const link = join(folder, LINK);
  const next = `${link}.new`;
  removeFileSync(next);
  symlinkSync(`/proc/${process.pid}/fd/${root.number}`, next);
  renameSync(next, link);
  roots.get(folder)?.[Symbol.dispose]();
  roots.set(folder, root);
}

/** Names of what the holder of `folder` holds, whether or not a daemon runs; none when there is no holder. */
export function namesInHolder(folder: string): string[] {
  if (!isNsfs(join(folder, MNT))) return [];
  return inHolder(folder, () => namesInSync('/'));
}

/** Removes the holder of `folder` unless it holds something. Absent is fine. Throws {@link SysError}. */
export function dropHolder(folder: string): void {
  if (namesInHolder(folder).length > 0) return;
  roots.get(folder)?.[Symbol.dispose]();
  roots.delete(folder);
  unmount(join(folder, MNT));
  unmount(folder);
  rmSync(folder, { recursive: true, force: true });
}

/** Bind-mounts the namespace that `source` is open on at `path` in its holder, where nothing of that name must be. */
export function hold(source: Fd, path: string): void {
  const name = `/${basename(path)}`;
  using tree = cloneTree(source);
  inHolder(required(path), () => {
    writeFileSync(name, '', { flag: 'wx', mode: 0o444 });
    try {
      attachTree(tree, name);
    } catch (error) {
      unlinkSync(name);
      throw error;
    }
  });
}

/** Undoes {@link hold}; an absent one, or an absent holder, is fine. */
export function letGo(path: string): void {
  const folder = required(path);
  if (!isNsfs(join(folder, MNT))) return;
  inHolder(folder, () => {
    const name = `/${basename(path)}`;
    unmount(name);
    removeFileSync(name);
  });
}

function required(path: string): string {
  const folder = holderOf(path);
  if (folder === undefined) throw new Error(`${path} is in no holder`);
  return folder;
}

/**
 * The file of a mount namespace can be mounted only where mounts do not propagate, since a copy of it in a namespace
 * that is older than itself could close a circle. So the folder is a private mount of itself.
 */
function makeHolder(folder: string): void {
  using undo = new DisposableStack();
  unmount(folder); // left by a process that was killed before the next lines
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  undo.defer(() => rmdirSync(folder));
  mount({ source: folder, target: folder, flags: C.MS_BIND });
  undo.defer(() => unmount(folder));
  mount({ source: '', target: folder, flags: C.MS_PRIVATE });
  const mnt = join(folder, MNT);
  writeFileSync(mnt, '', { mode: 0o444 });
  undo.defer(() => removeFileSync(mnt));
  fixNew(folder, mnt);
  undo.move();
}

/**
 * Makes the mount namespace and mounts it on the file `mnt`. The kernel takes only one with a higher number than that
 * of the namespace in which it is mounted, so that the two close no circle. Since Linux 6.18 each processor gives these
 * numbers out of a range of its own, in ascending order: a daemon that is in a mount namespace of its own (a container,
 * a unit with PrivateTmp=) has one that was made on some processor, and on that one a higher number is certain.
 */
function fixNew(folder: string, mnt: string): void {
  let refusal = fixOne(folder, mnt);
  for (const processor of refusal ? ownProcessors() : []) {
    refusal = onProcessor(processor, () => fixOne(folder, mnt));
    if (!refusal) return;
  }
  if (refusal) throw refusal;
}

/** One attempt. Gives the refusal of a number that is too low, and throws whatever else fails. */
function fixOne(folder: string, mnt: string): Error | undefined {
  using made = elsewhere(() => {
    check('unshare', libc.unshare(C.CLONE_NEWNS), folder);
    return emptied(folder);
  });
  try {
    mount({ source: `/proc/self/fd/${made.number}`, target: mnt, flags: C.MS_BIND });
    return undefined;
  } catch (error) {
    if (error instanceof SysError && error.code === 'EINVAL') return error;
    throw error;
  }
}

/**
 * Replaces all mounts of this thread's mount namespace, which is a copy of the host's, by an empty tmpfs. Gives the
 * namespace, open.
 */
function emptied(folder: string): Fd {
  using own = openFd('/proc/thread-self/ns/mnt', C.O_RDONLY);
  // What is unmounted here must stay with the host.
  mount({ source: '', target: '/', flags: C.MS_PRIVATE | C.MS_REC });
  mount({ source: 'sluice-held', target: folder, type: 'tmpfs', flags: HARMLESS, data: OPTIONS });
  check('chdir', libc.chdir(folder), folder);
  // pivot_root(2): with "." twice the old root lies on top of the new one, and is detached from there.
  check('pivot_root', libc.pivotRoot('.', '.'), folder);
  check('umount2', libc.umount2('.', C.MNT_DETACH), 'the old root');
  return own.move();
}

const HARMLESS = C.MS_NOSUID | C.MS_NODEV | C.MS_NOEXEC;

/** Runs `visit` with this thread in the holder of `folder`, in whose root the names are. Synchronous. */
function inHolder<T>(folder: string, visit: () => T): T {
  using namespace = openFd(join(folder, MNT), C.O_RDONLY);
  return elsewhere(() => {
    check('setns', libc.setns(namespace.number, C.CLONE_NEWNS), folder);
    return visit();
  });
}

/**
 * Runs `visit`, which changes the mount namespace of this thread, and returns to that of before, to the same root (of a
 * chroot, say) and working directory. Throws {@link SysError} before it leaves where the way back is refused, and
 * {@link StrandedThread} when the return fails all the same.
 */
function elsewhere<T>(visit: () => T): T {
  // setns(2) wants a thread that shares its root and working directory with none. Nothing happens when that is so
  // already; but a thread that this one has started since (libuv's pool, say) shares them again.
  check('unshare', libc.unshare(C.CLONE_FS));
  using home = openFd('/proc/thread-self/ns/mnt', C.O_RDONLY);
  using root = openFd('/', FOLDER);
  using cwd = openFd('.', FOLDER);
  const goHome = () => {
    check('setns', libc.setns(home.number, C.CLONE_NEWNS), 'the mount namespace');
    check('fchdir', libc.fchdir(root.number), 'the root');
    check('chroot', libc.chroot('.'));
    check('fchdir', libc.fchdir(cwd.number), 'the working directory');
  };
  goHome();
  try {
    return visit();
  } finally {
    try {
      goHome();
    } catch (cause) {
      // biome-ignore lint/correctness/noUnsafeFinally: the result of `visit` is of no use on a stranded thread
      throw new StrandedThread('this thread could not return to its mount namespace', { cause });
    }
  }
}
