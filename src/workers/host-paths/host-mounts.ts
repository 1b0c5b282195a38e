import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { SysError } from '../../sys/libc.ts';
import { MountTable } from '../../sys/mount-table.ts';
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

const isLocal = ({ type }: MountPoint) => LOCAL.has(type);

/** Milliseconds that {@link HostMounts.recent} keeps a table. */
const RECENT_MS = 1000;

/** This thread's, which every look at it brings up to date. Undefined where the kernel has the text alone. */
let table: MountTable | undefined = new MountTable((type) => !LOCAL.has(type));

/** The mounts of the host, as they are at construction, by mount point. */
export class HostMounts {
  static #recent: { table: HostMounts; until: number } | undefined;

  /**
   * The table as it was a second ago at most. For paths that are looked at again and again (programs, folders of CNI
   * plugins).
   */
  static recent(): HostMounts {
    const now = performance.now();
    if (!HostMounts.#recent || now > HostMounts.#recent.until)
      HostMounts.#recent = { table: new HostMounts(), until: now + RECENT_MS };
    return HostMounts.#recent.table;
  }

  readonly #lookUp: (mountPoint: string) => MountPoint | undefined;
  readonly #found = new Map<string, MountPoint | undefined>();

  /** `text` is that of a mountinfo file; left out for the mounts that this thread sees. */
  constructor(text?: string) {
    const asked = text === undefined ? refreshed() : undefined;
    this.#lookUp = asked ? (path) => asked.at(path) : inText(text ?? readFileSync('/proc/self/mountinfo', 'utf8'));
  }

  /** The mount that contains `path` (absolute, without symlinks). */
  of(path: string): MountPoint | undefined {
    for (let at = path; ; at = dirname(at)) {
      const mount = this.#on(at);
      if (mount || at === '/') return mount;
    }
  }

  /** The mount that contains `path` when it is not local, so that `path` must not be touched in this process. */
  remote(path: string): MountPoint | undefined {
    const mount = this.of(path);
    return mount && !isLocal(mount) ? mount : undefined;
  }

  #on(mountPoint: string): MountPoint | undefined {
    if (!this.#found.has(mountPoint)) this.#found.set(mountPoint, this.#lookUp(mountPoint));
    return this.#found.get(mountPoint);
  }
}

function refreshed(): MountTable | undefined {
  try {
    table?.refresh();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    table = undefined; // a kernel before 6.8, or a filter of system calls
  }
  return table;
}

/** Finds mounts in the text of a mountinfo file. A line is parsed when it is asked for: there may be thousands. */
function inText(text: string): (mountPoint: string) => MountPoint | undefined {
  const lines = new Map<string, string>();
  for (const line of text.split('\n')) {
    // The mount point is the fifth field.
    let at = -1;
    for (let field = 0; field < 4; field++) at = line.indexOf(' ', at + 1);
    const written = line.slice(at + 1, line.indexOf(' ', at + 1));
    // Of two mounts on one point the later lies on top.
    if (at > 0) lines.set(written.includes('\\') ? (parseMountinfo(line)[0]?.mountPoint ?? written) : written, line);
  }
  return (mountPoint) => {
    const line = lines.get(mountPoint);
    return line === undefined ? undefined : parseMountinfo(line)[0];
  };
}
