/** SQLite's primary result codes (https://www.sqlite.org/rescode.html) that decide what is done about a failure. */
const SQLITE = {
  BUSY: 5,
  LOCKED: 6,
  READONLY: 8,
  IOERR: 10,
  CORRUPT: 11,
  FULL: 13,
  CANTOPEN: 14,
  NOTADB: 26,
} as const;

/** The file does not hold what a store holds. Reading it again does not help. */
export class BrokenStore extends Error {
  override readonly name = 'BrokenStore';
}

/**
 * The low byte of an extended result code (778, SQLITE_IOERR_WRITE, is a kind of 10); undefined for errors of other
 * origin.
 */
function primaryCode(error: unknown): number | undefined {
  const { errcode } = error as { errcode?: number };
  return errcode === undefined ? undefined : errcode & 0xff;
}

function isOneOf(error: unknown, codes: readonly number[]): boolean {
  const code = primaryCode(error);
  return code !== undefined && codes.includes(code);
}

export function isBroken(error: unknown): boolean {
  return error instanceof BrokenStore || isOneOf(error, [SQLITE.CORRUPT, SQLITE.NOTADB]);
}

/**
 * Freed space may help. ENOSPC is SQLITE_FULL in a write of the database or its WAL, SQLITE_IOERR (SHMSIZE, WRITE) in
 * one of the shared memory file, SQLITE_CANTOPEN where it keeps a file from being made; EDQUOT is SQLITE_IOERR
 * everywhere.
 */
export function mayBeFull(error: unknown): boolean {
  return isOneOf(error, [SQLITE.FULL, SQLITE.IOERR, SQLITE.CANTOPEN]);
}

/** The connection is as good as before: another one held the lock, or the disk was full. */
export function keepsConnection(error: unknown): boolean {
  return isOneOf(error, [SQLITE.BUSY, SQLITE.LOCKED, SQLITE.FULL]);
}

/**
 * The file, or the file system it is in, refuses to be opened or written: the cause may pass, and says nothing against
 * the rows.
 */
export function isDiskTrouble(error: unknown): boolean {
  const { BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN } = SQLITE;
  return (
    isOneOf(error, [BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN]) ||
    (error as NodeJS.ErrnoException).errno !== undefined
  );
}
