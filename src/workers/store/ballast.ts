import { randomFillSync } from 'node:crypto';
import { existsSync, rmSync, writeFileSync } from 'node:fs';

const BYTES = 4 << 20;

/** Room kept beside the database of this path, to be given up when the disk is full. */
export const ballastOf = (database: string): string => `${database}.ballast`;

/**
 * Takes the room, unless it is there. Random bytes, since some file systems store a file of zeros without its blocks.
 * Throws, and takes nothing, when the disk has no room.
 */
export function takeBallast(database: string): void {
  const path = ballastOf(database);
  if (existsSync(path)) return;
  try {
    writeFileSync(path, randomFillSync(Buffer.allocUnsafe(BYTES)), { mode: 0o600 });
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  }
}
