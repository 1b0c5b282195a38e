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
/** STATMOUNT_MNT_POINT and _FS_TYPE: what every mount is known by. */
const LITTLE = 0x10n | 0x20n;
/** With them STATMOUNT_SB_BASIC, _MNT_BASIC and _MNT_ROOT. */
const ALL = LITTLE | 0x1n | 0x2n | 0x8n;
/** Where struct statmount has its fields, and its strings. */
const AT = { major: 16, minor: 20, type: 36, propagation: 72, root: 104, mountPoint: 108, text: 512 } as const;
const IDS_AT_ONCE = 4096;
const ENOENT = 2;
const EOVERFLOW = 75;
const MOST_BYTES = 1 << 20;

/** What is kept of each mount: there are thousands on a full node, in each thread that looks. */
type Known = Pick<MountPoint, 'mountPoint' | 'type'>;

/** Told apart by numbers that the kernel never uses again. */
export class MountTable {
  /** The numbers of all mounts at the last look, ascending. */
  #ids = new Float64Array();
  readonly #mounts = new Map<number, Known>();
  /** Numbers of the mounts on one point, the last mounted at the end. */
  readonly #on = new Map<string, number[]>();
  /** Those of an unsure file system. */
  readonly #restless = new Set<number>();
  readonly #unsure: (type: string) => boolean;

  /**
   * Of the mounts whose file system is `unsure`, {@link refresh} asks again where they are; others are not expected to
   * move.
   */
  constructor(unsure: (type: string) => boolean) {
    this.#unsure = unsure;
  }

  /** Learns what has been mounted and unmounted. Throws {@link SysError} (ENOSYS) where the kernel has no such call. */
  refresh(): void {
    const before = this.#ids;
    const now = listMounts();
    const look: number[] = [];
    let at = 0;
    for (const id of now) {
      for (; at < before.length && Number(before[at]) < id; at++) this.#forget(Number(before[at]));
      if (before[at] === id) at++;
      else look.push(id);
    }
    for (; at < before.length; at++) this.#forget(Number(before[at]));
    look.unshift(...this.#restless);
    for (const id of look) this.#keep(id, statMount(id, LITTLE, known));
    this.#ids = now;
  }

  /** What is mounted on `mountPoint` now, the topmost of several, as far as {@link refresh} has seen it. */
  at(mountPoint: string): MountPoint | undefined {
    for (;;) {
      const id = this.#on.get(mountPoint)?.at(-1);
      if (id === undefined) return undefined;
      const mount = statMount(id, ALL, decode);
      if (mount?.mountPoint === mountPoint) return mount;
      this.#keep(id, mount); // it is another place's by now, or gone
    }
  }

  #keep(id: number, now: Known | undefined): void {
    const before = this.#mounts.get(id);
    if (before && before.mountPoint === now?.mountPoint) return;
    if (before) this.#forget(id);
    if (!now) return;
    const { mountPoint, type } = now;
    this.#mounts.set(id, { mountPoint, type });
    if (this.#unsure(type)) this.#restless.add(id);
    const on = this.#on.get(mountPoint);
    if (on) on.splice(on.findLastIndex((other) => other < id) + 1, 0, id);
    else this.#on.set(mountPoint, [id]);
  }

  #forget(id: number): void {
    const mountPoint = this.#mounts.get(id)?.mountPoint;
    if (mountPoint === undefined) return;
    this.#mounts.delete(id);
    this.#restless.delete(id);
    const left = this.#on.get(mountPoint)?.filter((other) => other !== id) ?? [];
    if (left.length > 0) this.#on.set(mountPoint, left);
    else this.#on.delete(mountPoint);
  }
}

const asked = Buffer.alloc(SIZE_OF_REQUEST);
/** What the last call has answered; nothing of it is kept. It grows when a mount does not fit. */
let answer = Buffer.alloc(8 * IDS_AT_ONCE);

function ask(call: number, id: bigint, parameter: bigint, size: number): number {
  asked.writeUInt32LE(SIZE_OF_REQUEST, 0);
  asked.writeBigUInt64LE(id, 8);
  asked.writeBigUInt64LE(parameter, 16);
  return Number(libc.mountCall(call, asked, answer, size, 0));
}

/** Numbers of all mounts, ascending. They begin at 2³¹, so a double holds them. Throws {@link SysError}. */
function listMounts(): Float64Array<ArrayBuffer> {
  const found: number[] = [];
  for (let after = 0, count = IDS_AT_ONCE; count === IDS_AT_ONCE; after = found.at(-1) ?? 0) {
    count = ask(LISTMOUNT, LSMT_ROOT, BigInt(after), IDS_AT_ONCE);
    if (count < 0) throw new SysError('listmount', errno());
    const halves = new Uint32Array(answer.buffer, answer.byteOffset, 2 * count);
    for (let at = 0; at < halves.length; at += 2) found.push(Number(halves[at]) + Number(halves[at + 1]) * 2 ** 32);
  }
  return Float64Array.from(found).sort();
}

/** What `read` makes of the answer; undefined for a mount that is gone. Throws {@link SysError}. */
function statMount<T>(id: number, wanted: bigint, read: (answer: Buffer) => T): T | undefined {
  while (ask(STATMOUNT, BigInt(id), wanted, answer.length) < 0) {
    const code = errno();
    if (code === ENOENT) return undefined;
    if (code !== EOVERFLOW || answer.length > MOST_BYTES) throw new SysError('statmount', code, `${id}`);
    answer = Buffer.alloc(2 * answer.length);
  }
  return read(answer);
}

function text(bytes: Buffer, field: number): string {
  const from = AT.text + bytes.readUInt32LE(field);
  return bytes.toString('utf8', from, bytes.indexOf(0, from));
}

const known = (bytes: Buffer): Known => ({ mountPoint: text(bytes, AT.mountPoint), type: text(bytes, AT.type) });

function decode(bytes: Buffer): MountPoint {
  const propagation = bytes.readUInt32LE(AT.propagation);
  return {
    ...known(bytes),
    device: `${bytes.readUInt32LE(AT.major)}:${bytes.readUInt32LE(AT.minor)}`,
    root: text(bytes, AT.root),
    shared: (propagation & C.MS_SHARED) !== 0,
    slave: (propagation & C.MS_SLAVE) !== 0,
  };
}
