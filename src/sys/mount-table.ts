/**
 * The mounts of this thread's mount namespace, asked for one by one (listmount(2) and statmount(2), Linux 6.8). The
 * text of /proc/self/mountinfo has all of every mount each time: 4 ms for 1500 mounts, where their numbers take 0.04.
 */
import { C, errno, libc, SysError } from './libc.ts';
import type { MountPoint } from './mountinfo.ts';

/** System call numbers, the same on every architecture. */
const STATMOUNT = 457;
const LISTMOUNT = 458;
/** As the mount whose mounts are listed: all that can be reached from this thread's root. */
const LSMT_ROOT = 0xffff_ffff_ffff_ffffn;
const SIZE_OF_REQUEST = 24; // MNT_ID_REQ_SIZE_VER0
/** STATMOUNT_SB_BASIC, _MNT_BASIC, _MNT_ROOT, _MNT_POINT, _FS_TYPE. */
const WANTED = 0x1n | 0x2n | 0x8n | 0x10n | 0x20n;
/** Where struct statmount has its fields, and its strings. */
const AT = { major: 16, minor: 20, type: 36, propagation: 72, root: 104, mountPoint: 108, text: 512 } as const;
const IDS_AT_ONCE = 4096;
const ENOENT = 2;
const EOVERFLOW = 75;

/** Told apart by numbers that the kernel never uses again. */
export class MountTable {
  readonly #mounts = new Map<number, MountPoint>();
  /** Numbers of the mounts on one point, the last mounted at the end. */
  readonly #on = new Map<string, number[]>();
  readonly #unsure: (mount: MountPoint) => boolean;

  /** Of the mounts that are `unsure`, {@link refresh} asks again where they are; others are not expected to move. */
  constructor(unsure: (mount: MountPoint) => boolean) {
    this.#unsure = unsure;
  }

  /** Learns what has been mounted and unmounted. Throws {@link SysError} (ENOSYS) where the kernel has no such call. */
  refresh(): void {
    const present = new Set(listMounts());
    for (const [id, mount] of this.#mounts) {
      if (!present.has(id)) this.#forget(id);
      else if (this.#unsure(mount)) this.#look(id);
    }
    for (const id of present) if (!this.#mounts.has(id)) this.#look(id);
  }

  /** What is mounted on `mountPoint` now, the topmost of several, as far as {@link refresh} has seen it. */
  at(mountPoint: string): MountPoint | undefined {
    for (;;) {
      const id = this.#on.get(mountPoint)?.at(-1);
      if (id === undefined) return undefined;
      const mount = this.#look(id); // it may be another place's by now, or shared where it was not
      if (mount?.mountPoint === mountPoint) return mount;
    }
  }

  #look(id: number): MountPoint | undefined {
    const now = statMount(id);
    const before = this.#mounts.get(id);
    if (before && before.mountPoint !== now?.mountPoint) this.#forget(id);
    if (!now) return undefined;
    this.#mounts.set(id, now);
    if (before?.mountPoint === now.mountPoint) return now;
    const on = this.#on.get(now.mountPoint);
    if (on) on.splice(on.findLastIndex((other) => other < id) + 1, 0, id);
    else this.#on.set(now.mountPoint, [id]);
    return now;
  }

  #forget(id: number): void {
    const { mountPoint } = this.#mounts.get(id) ?? {};
    this.#mounts.delete(id);
    const left = this.#on.get(mountPoint ?? '')?.filter((other) => other !== id) ?? [];
    if (left.length > 0) this.#on.set(mountPoint ?? '', left);
    else this.#on.delete(mountPoint ?? '');
  }
}

/** Numbers of all mounts. They begin at 2³¹ and count up, so a double holds them. Throws {@link SysError}. */
function listMounts(): number[] {
  const found: number[] = [];
  const ids = Buffer.alloc(8 * IDS_AT_ONCE);
  for (let after = 0n, count = IDS_AT_ONCE; count === IDS_AT_ONCE; ) {
    count = Number(libc.mountCall(LISTMOUNT, request(LSMT_ROOT, after), ids, IDS_AT_ONCE, 0));
    if (count < 0) throw new SysError('listmount', errno());
    for (let at = 0; at < count * 8; at += 8) found.push(ids.readUInt32LE(at) + ids.readUInt32LE(at + 4) * 2 ** 32);
    after = BigInt(found.at(-1) ?? 0);
  }
  return found;
}

/** Undefined for a mount that is gone. Throws {@link SysError}. */
function statMount(id: number): MountPoint | undefined {
  const asked = request(BigInt(id), WANTED);
  for (let size = 2048; ; size *= 4) {
    const found = Buffer.alloc(size);
    if (libc.mountCall(STATMOUNT, asked, found, size, 0) >= 0) return decode(found);
    const code = errno();
    if (code === ENOENT) return undefined;
    if (code !== EOVERFLOW || size > 1 << 20) throw new SysError('statmount', code, `${id}`);
  }
}

function request(id: bigint, parameter: bigint): Buffer {
  const bytes = Buffer.alloc(SIZE_OF_REQUEST);
  bytes.writeUInt32LE(SIZE_OF_REQUEST, 0);
  bytes.writeBigUInt64LE(id, 8);
  bytes.writeBigUInt64LE(parameter, 16);
  return bytes;
}

function decode(bytes: Buffer): MountPoint {
  const text = (field: number) => {
    const from = AT.text + bytes.readUInt32LE(field);
    return bytes.toString('utf8', from, bytes.indexOf(0, from));
  };
  const propagation = bytes.readUInt32LE(AT.propagation);
  return {
    device: `${bytes.readUInt32LE(AT.major)}:${bytes.readUInt32LE(AT.minor)}`,
    root: text(AT.root),
    mountPoint: text(AT.mountPoint),
    type: text(AT.type),
    shared: (propagation & C.MS_SHARED) !== 0,
    slave: (propagation & C.MS_SLAVE) !== 0,
  };
}
