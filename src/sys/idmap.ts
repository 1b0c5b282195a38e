/** Idmapped mounts (Linux 5.12): the mount shows the files' owners translated by the mappings of a user namespace. */
import { Fd, openFd } from './fd.ts';
import { C, check, libc } from './libc.ts';

/** System call numbers, the same on every architecture. */
const OPEN_TREE = 428;
const MOVE_MOUNT = 429;
const MOUNT_SETATTR = 442;
const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOUNT_ATTR_RDONLY = 1n;
const MOUNT_ATTR_IDMAP = 0x100000n;
const SIZE_OF_MOUNT_ATTR = 32;
const EMPTY = Buffer.from('\0');

export interface IdMappedMount {
  source: string;
  target: string;
  /** Path of the user namespace with the mappings: a pinned one, or /proc/<pid>/ns/user. */
  userns: string;
}

/**
 * Mounts the folder `source` on `target`, read-only. Throws {@link SysError}; EINVAL where the file system does not
 * support idmapped mounts.
 */
export function mountIdMapped({ source, target, userns }: IdMappedMount): void {
  using namespace = openFd(userns, C.O_RDONLY);
  const flags = OPEN_TREE_CLONE | C.O_CLOEXEC;
  using tree = new Fd(check('open_tree', Number(libc.syscall3(OPEN_TREE, AT_FDCWD, path(source), flags)), source));
  const attributes = Buffer.alloc(SIZE_OF_MOUNT_ATTR);
  attributes.writeBigUInt64LE(MOUNT_ATTR_RDONLY | MOUNT_ATTR_IDMAP, 0);
  attributes.writeBigUInt64LE(BigInt(namespace.number), 24);
  const { number } = tree;
  const set = libc.syscallAt(MOUNT_SETATTR, number, EMPTY, AT_EMPTY_PATH, attributes, SIZE_OF_MOUNT_ATTR);
  check('mount_setattr', Number(set), source);
  const moved = libc.syscallAt(MOVE_MOUNT, number, EMPTY, AT_FDCWD, path(target), MOVE_MOUNT_F_EMPTY_PATH);
  check('move_mount', Number(moved), target);
}

const path = (text: string) => Buffer.from(`${text}\0`);
