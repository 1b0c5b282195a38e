import type { DatabaseSync } from 'node:sqlite';

/**
 * Turns a store of one version into the next one. It runs in a transaction: a store is of one version or of the other.
 */
export type Migration = (db: DatabaseSync) => void;

/** By the version that each one starts from. */
export type Migrations = Readonly<Record<number, Migration>>;

/**
 * What a store of each earlier version needs to become the next one: `1: (db) => …` makes version 2 of version 1. A row
 * whose shape changes gets an entry here, with a test in test/unit/store-versions.test.ts. Nothing is ever removed.
 */
export const MIGRATIONS: Migrations = {};

/** The version that these migrations lead to, which is the one that this Sluice reads and writes. */
export function newestVersion(migrations: Migrations = MIGRATIONS): number {
  return 1 + Object.keys(migrations).reduce((newest, version) => Math.max(newest, Number(version)), 0);
}
