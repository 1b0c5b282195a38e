/** Memory of a file without a name, which outlives this process as long as any process has it open. */
import { fstatSync, ftruncateSync, readlinkSync, readSync } from 'node:fs';
import koffi from 'koffi';
import { Fd, openFd } from './fd.ts';
import { namesInSync } from './folder.ts';
import { C, check, errno, libc, SysError } from './libc.ts';

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const FALLOC_PUNCH_HOLE = 3; // with FALLOC_FL_KEEP_SIZE
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

/** Makes an empty file in memory (memfd). Throws {@link SysError}. */
export function makeMemory(name: string): Fd {
  return new Fd(check('memfd_create', libc.memfdCreate(name, C.MFD_CLOEXEC)));
}

/**
 * The memory files of this name that a process has open, each opened anew, once per file; none for a process that is
 * gone.
 */
export function memoryOf(pid: number, name: string): Fd[] {
  const folder = `/proc/${pid}/fd`;
  const found = new Map<number, Fd>();
  for (const entry of namesInSync(folder)) {
    if (linkOf(`${folder}/${entry}`) !== `/memfd:${name} (deleted)`) continue;
    using fd = openFd(`${folder}/${entry}`, C.O_RDWR);
    const { ino } = fstatSync(fd.number);
    if (!found.has(ino)) found.set(ino, fd.move());
  }
  return [...found.values()];
}

/**
 * Maps `length` bytes of the file from `offset` on, both multiples of 4096, and makes the file longer where it is
 * shorter. What is written into the buffer is in the file at once, for the kernel and for other processes. The mapping
 * stays until this process ends: nobody could tell when the last view of the buffer is gone.
 */
export function mapMemory(file: Fd, offset: number, length: number): Buffer {
  if (memorySize(file) < offset + length) ftruncateSync(file.number, offset + length);
  const address = libc.mmap(null, length, PROT_READ_WRITE, MAP_SHARED, file.number, offset);
  if (koffi.address(address) === MAP_FAILED) throw new SysError('mmap', errno());
  return Buffer.from(koffi.view(address, length));
}

/** The file's size in bytes. */
export const memorySize = (file: Fd): number => fstatSync(file.number).size;

/** Copies a part of the file, without memory for those pages of it that nobody has written. */
export function readMemory(file: Fd, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, readSync(file.number, bytes, 0, length, offset));
}

/** Gives the memory of a part of the file back, which is zero from then on, also for those that have it mapped. */
export function dropMemory(file: Fd, offset: number, length: number): void {
  check('fallocate', libc.fallocate(file.number, FALLOC_PUNCH_HOLE, offset, length));
}

/** Where a link points to; undefined when it is gone. */
function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
