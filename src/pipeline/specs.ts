import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Spec } from '../main/oci/types.ts';

/** A row whose bundle holds its spec. */
interface Bundled {
  id: string;
  bundle: string;
}

/**
 * The OCI specs of what exists, as they stand in the bundles. Not kept in memory: a few KiB each, asked for by people
 * (`crictl inspectp`) and by exec.
 */
export class Specs {
  /** Undefined when the bundle is gone, as it is after a stop. */
  async of({ bundle }: Bundled): Promise<Spec | undefined> {
    try {
      return JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }
}
