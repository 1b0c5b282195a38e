import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type MountPoint, parseMountinfo } from '../../sys/mountinfo.ts';

/**
 * File systems that answer without another machine or process. Any other type (nfs, cifs, fuse, ceph, 9p, autofs, ...)
 * may keep whoever touches it in uninterruptible sleep for ever.
 */
const LOCAL = new Set(
  `ext2 ext3 ext4 xfs btrfs bcachefs zfs f2fs jfs nilfs2 vfat msdos exfat ntfs3 iso9660 udf squashfs erofs overlay
  tmpfs ramfs rootfs devtmpfs devpts proc sysfs cgroup cgroup2 securityfs debugfs tracefs configfs bpf hugetlbfs mqueue
  pstore efivarfs fusectl binfmt_misc selinuxfs nsfs`.split(/\s+/),
);

/** Milliseconds that {@link HostMounts.recent} keeps a table. */
const RECENT_MS = 1000;

/**
 * The mount table, as it is at construction, by mount point. A line is parsed when it is asked for: there are thousands
 * on a full node.
 */
export class HostMounts {
  static #recent: { table: HostMounts; until: number } | undefined;

  /**
   * The table as it was a second ago at most. For paths that are looked at again and again (programs, folders of CNI
   * plugins): the kernel takes a millisecond to write the table of a full node.
   */
  static recent(): HostMounts {
    const now = performance.now();
    if (!HostMounts.#recent || now > HostMounts.#recent.until)
      HostMounts.#recent = { table: new HostMounts(), until: now + RECENT_MS };
    return HostMounts.#recent.table;
  }

  readonly #lines = new Map<string, string>();

  constructor(text = readFileSync('/proc/self/mountinfo', 'utf8')) {
    for (const line of text.split('\n')) {
      // The mount point is the fifth field.
      let at = -1;
      for (let field = 0; field < 4; field++) at = line.indexOf(' ', at + 1);
      const written = line.slice(at + 1, line.indexOf(' ', at + 1));
      // Of two mounts on one point the later lies on top.
      if (at > 0)
        this.#lines.set(written.includes('\\') ? (parseMountinfo(line)[0]?.mountPoint ?? written) : written, line);
    }
  }

  /** The mount that contains `path` (absolute, without symlinks). */
  of(path: string): MountPoint | undefined {
    for (let at = path; ; at = dirname(at)) {
      const line = this.#lines.get(at);
      if (line !== undefined) return parseMountinfo(line)[0];
      if (at === '/') return undefined;
    }
  }

  /** The mount that contains `path` when it is not local, so that `path` must not be touched in this process. */
  remote(path: string): MountPoint | undefined {
    const mount = this.of(path);
    return mount && !LOCAL.has(mount.type) ? mount : undefined;
  }
}
