import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeExact, encodeSpec } from '../main/oci/encode.ts';
import type { Spec } from '../main/oci/types.ts';

/** A row whose bundle holds its spec. */
interface Bundled {
  bundle: string;
}

/**
 * The OCI specs of what exists, as they stand in the bundles. Not kept in memory: a few KiB each, asked for by people
 * (`crictl inspectp`), by exec and by a resize.
 */
export class Specs {
  /** Undefined when the bundle is gone, as it is after a stop. */
  async of({ bundle }: Bundled): Promise<Spec | undefined> {
    try {
      return decodeExact(await readFile(join(bundle, 'config.json'), 'utf8')) as Spec;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** Rewrites a bundle's spec in one step, so that nobody reads half of it. */
  async update(bundled: Bundled, change: (spec: Spec) => void): Promise<void> {
    const spec = await this.of(bundled);
    if (!spec) return;
    change(spec);
    const path = join(bundled.bundle, 'config.json');
    await writeFile(`${path}.new`, encodeSpec(spec), { mode: 0o600 });
    await rename(`${path}.new`, path);
  }
}
