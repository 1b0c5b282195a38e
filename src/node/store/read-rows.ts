import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { readBeside } from '../../workers/store/open.ts';
import type { SandboxRow } from './sandbox.ts';

/** What of a sandbox's row is there in every version of the daemon, and more. */
export type StoredSandbox = Pick<SandboxRow, 'id'> &
  Partial<Pick<SandboxRow, 'state' | 'netns' | 'userns' | 'shim' | 'network' | 'config'>>;

/** The rows of a store, read beside a daemon that may be running. Throws INVALID_REQUEST when there is no store. */
export function readRows(root: string): { sandboxes: StoredSandbox[]; containers: { id: string }[] } {
  const path = join(root, 'sluice.db');
  if (!existsSync(path))
    throw new SluiceError('INVALID_REQUEST', `there is no store at ${path}: nothing can be compared`);
  return readBeside(path, (db) => {
    const rows = <R extends { id: string }>(table: string): R[] =>
      (db.prepare(`SELECT id, row FROM ${table}`).all() as { id: string; row: string }[]).map(
        ({ id, row }) => ({ ...JSON.parse(row), id }) as R,
      );
    return {
      sandboxes: rows<Omit<StoredSandbox, 'config'> & { config?: string }>('sandboxes').map(({ config, ...row }) => ({
        ...row,
        ...(config === undefined ? {} : { config: PodSandboxConfig.decode(Buffer.from(config, 'base64')) }),
      })),
      containers: rows('containers'),
    };
  });
}
