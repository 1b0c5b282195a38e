import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeExact, encodeSpec } from './encode.ts';
import type { Spec } from './types.ts';

/** A row of the store with the path of its bundle. */
interface Bundled {
  bundle: string;
}

/** Cached specs; each takes some tens of KiB. */
const KEPT = 100;

/**
 * Reads and rewrites the config.json of bundles. Keeps the 100 most recently used specs, because an exec probe needs
 * its container's spec every few seconds and reading one takes a millisecond. Nothing else than Sluice writes these
 * files.
 */
export class BundleSpecs {
  readonly #kept = new Map<string, Spec>();

  /**
   * The spec of a bundle; undefined when the bundle no longer exists, as after a stop. Callers must not change it: see
   * {@link update}.
   */
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

  /** Removes a bundle from the cache, before the bundle is removed. */
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

  /**
   * Changes a bundle's config.json with an atomic rename, so that no reader sees half of it. Does nothing when there is
   * no bundle.
   */
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
