/** Idmapped mounts (Linux 5.12): the mount shows the files' owners translated by the mappings of a user namespace. */
import { openFd } from './fd.ts';
import { C, check, libc } from './libc.ts';
import { attachTree, cloneTree } from './mount-tree.ts';

/** The system call's number, the same on every architecture. */
const MOUNT_SETATTR = 442;
const AT_EMPTY_PATH = 0x1000;
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
  using tree = cloneTree(source);
  const attributes = Buffer.alloc(SIZE_OF_MOUNT_ATTR);
  attributes.writeBigUInt64LE(MOUNT_ATTR_RDONLY | MOUNT_ATTR_IDMAP, 0);
  attributes.writeBigUInt64LE(BigInt(namespace.number), 24);
  const set = libc.syscallAt(MOUNT_SETATTR, tree.number, EMPTY, AT_EMPTY_PATH, attributes, SIZE_OF_MOUNT_ATTR);
  check('mount_setattr', Number(set), source);
  attachTree(tree, target);
}
