import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeExact, encodeSpec } from './encode.ts';
import type { Spec } from './types.ts';

/** A row whose bundle holds its spec. */
interface Bundled {
  bundle: string;
}

/** Specs that are kept, some tens of KiB each: those of the containers that probes run commands in, again and again. */
const KEPT = 100;

/**
 * The OCI specs of what exists, as they stand in the bundles. The ones asked for last are kept, since a probe asks every few
 * seconds and reading one takes a millisecond; nobody but us writes them.
 */
export class BundleSpecs {
  readonly #kept = new Map<string, Spec>();

  /** Undefined when the bundle is gone, as it is after a stop. Not to be changed: see {@link update}. */
  async of({ bundle }: Bundled): Promise<Spec | undefined> {
    const kept = this.#kept.get(bundle);
    const spec = kept ?? (await this.#read(bundle));
    if (!spec) return undefined;
    this.#kept.delete(bundle);
    this.#kept.set(bundle, spec);
    const oldest = this.#kept.keys().next();
    if (this.#kept.size > KEPT && !oldest.done) this.#kept.delete(oldest.value);
    return spec;
  }

  /** The bundle is going away. */
  forget({ bundle }: Bundled): void {
    this.#kept.delete(bundle);
  }

  async #read(bundle: string): Promise<Spec | undefined> {
    try {
      return decodeExact(await readFile(join(bundle, 'config.json'), 'utf8')) as Spec;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** Rewrites a bundle's spec in one step, so that nobody reads half of it. */
  async update(bundled: Bundled, change: (spec: Spec) => void): Promise<void> {
    const spec = await this.#read(bundled.bundle);
    if (!spec) return;
    change(spec);
    const path = join(bundled.bundle, 'config.json');
    await writeFile(`${path}.new`, encodeSpec(spec), { mode: 0o600 });
    await rename(`${path}.new`, path);
    this.forget(bundled);
  }
}
