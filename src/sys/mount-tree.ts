/** Mounts that stand nowhere yet (open_tree(2) and move_mount(2), Linux 5.2). */
import { Fd } from './fd.ts';
import { C, check, libc } from './libc.ts';

/** System call numbers, the same on every architecture. */
const OPEN_TREE = 428;
const MOVE_MOUNT = 429;
const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const EMPTY = Buffer.from('\0');

/** A bind mount of `source`, a path or an open file, that is attached to nothing. Throws {@link SysError}. */
export function cloneTree(source: string | Fd): Fd {
  const flags = OPEN_TREE_CLONE | C.O_CLOEXEC;
  const opened =
    typeof source === 'string'
      ? libc.syscall3(OPEN_TREE, AT_FDCWD, path(source), flags)
      : libc.syscall3(OPEN_TREE, source.number, EMPTY, flags | AT_EMPTY_PATH);
  return new Fd(check('open_tree', Number(opened), typeof source === 'string' ? source : undefined));
}

/** Attaches what {@link cloneTree} has made at `target` in this thread's mount namespace. Throws {@link SysError}. */
export function attachTree(tree: Fd, target: string): void {
  const moved = libc.syscallAt(MOVE_MOUNT, tree.number, EMPTY, AT_FDCWD, path(target), MOVE_MOUNT_F_EMPTY_PATH);
  check('move_mount', Number(moved), target);
}

const path = (text: string) => Buffer.from(`${text}\0`);
