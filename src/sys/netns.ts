import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Fd, openFd } from './fd.ts';
import { removeFileSync } from './folder.ts';
import { hold, holderOf, letGo } from './holder.ts';
import { C, check, libc } from './libc.ts';
import { setLink } from './link.ts';
import { isNsfs, mount, unmount } from './mount.ts';
import { StrandedThread } from './stranded-thread.ts';

/** Name in /proc/<pid>/ns and CLONE_NEW flag of the namespaces that a thread can enter and leave again. */
const KINDS = { net: C.CLONE_NEWNET, ipc: C.CLONE_NEWIPC, uts: C.CLONE_NEWUTS } as const;
type Kind = keyof typeof KINDS;

/**
 * Calls `enter`, which changes namespaces of the thread, of these kinds, runs `visit`, and returns to the original
 * ones. All of it is synchronous, since an await would let another task of the thread run in the wrong namespaces.
 * Throws {@link StrandedThread} when the return fails.
 */
function visiting<T>(kinds: readonly Kind[], enter: () => void, visit: () => T): T {
  using homes = new DisposableStack();
  const ways = kinds.map((kind) => {
    const home: Fd = homes.use(openFd(`/proc/thread-self/ns/${kind}`, C.O_RDONLY));
    return { home, flag: KINDS[kind] };
  });
  enter();
  try {
    return visit();
  } finally {
    try {
      for (const { home, flag } of ways) check('setns', libc.setns(home.number, flag));
    } catch (cause) {
      // biome-ignore lint/correctness/noUnsafeFinally: the result of `visit` is of no use on a stranded thread
      throw new StrandedThread('this thread could not return to its namespaces', { cause });
    }
  }
}

/** Runs `visit` with this thread in the network namespace at `path`. Synchronous: see {@link visiting}. */
export function inNetns<T>(path: string, visit: () => T): T {
  using target = openFd(path, C.O_RDONLY);
  return visiting(['net'], () => check('setns', libc.setns(target.number, C.CLONE_NEWNET), path), visit);
}

/**
 * Makes a network namespace that outlives its processes: it is bind-mounted on `path`, which must not exist. `loopback`
 * sets `lo` up. It takes 0.4 ms; the loopback plugin alone takes 2.8 ms.
 */
export function createNetns(path: string, { loopback }: { loopback: boolean }): void {
  pinNamespaces({ net: path }, () => {
    if (loopback) setLink('lo', true);
  });
}

/**
 * Makes one namespace of each kind that `paths` names, bind-mounted on the path, which must not exist, and runs `setUp`
 * inside of all of them. The namespaces outlive their processes. A path may be one in a holder (src/sys/holder.ts).
 * When anything fails, nothing is left.
 */
export function pinNamespaces(paths: Partial<Record<Kind, string>>, setUp: () => void): void {
  const wanted = Object.entries(paths) as [Kind, string][];
  using undo = new DisposableStack();
  for (const [, path] of wanted) {
    if (holderOf(path) !== undefined) continue; // hold() makes the file
    makeFile(path);
    undo.defer(() => unpinNamespace(path));
  }
  const kinds = wanted.map(([kind]) => kind);
  const flags = kinds.reduce((all, kind) => all | KINDS[kind], 0);
  visiting(
    kinds,
    () => check('unshare', libc.unshare(flags)),
    () => {
      for (const [kind, path] of wanted) {
        const source = `/proc/thread-self/ns/${kind}`;
        if (holderOf(path) === undefined) {
          mount({ source, target: path, flags: C.MS_BIND });
        } else {
          using namespace = openFd(source, C.O_RDONLY);
          hold(namespace, path);
          undo.defer(() => unpinNamespace(path));
        }
      }
      setUp();
    },
  );
  undo.move();
}

/** An empty file to mount on; its folder is there except for the first pod. */
function makeFile(path: string): void {
  const make = () => closeSync(openSync(path, 'wx', 0o444));
  try {
    make();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    make();
  }
}

/** Unmounts and removes a pinned namespace of any kind; an absent one is fine. */
export function unpinNamespace(path: string): void {
  if (holderOf(path) !== undefined) {
    letGo(path);
    return;
  }
  unmount(path);
  removeFileSync(path);
}

/** Sets the hostname of the UTS namespace that this thread is in. Throws {@link SysError}. */
export function setHostname(name: string): void {
  const bytes = Buffer.from(name);
  check('sethostname', libc.sethostname(bytes, bytes.length), name);
}

/** Is a namespace mounted at `path`? A plain file is left there when a reboot has removed the mount. */
export function netnsExists(path: string): boolean {
  return isNsfs(path);
}
