import { SluiceError } from '../../errors.ts';
import type { Table } from '../store/table.ts';
import { isDigest } from './digest.ts';
import { digestName, parseReference, tagName } from './reference.ts';
import type { ImageRow } from './rows.ts';

/** The names of images. A name belongs to one image; a tag that moves leaves the old image with its digests. */
export class ImageNames {
  readonly #images: Table<ImageRow>;
  readonly #owners = new Map<string, string>();

  constructor(images: Table<ImageRow>) {
    this.#images = images;
    this.rebuild();
  }

  rebuild(): void {
    this.#owners.clear();
    for (const { id, names } of this.#images.values()) for (const name of names) this.#owners.set(name, id);
  }

  /** Adds names to an image, takes them from other images, and stores both. */
  give(row: ImageRow, names: readonly string[]): void {
    for (const name of names) {
      const owner = this.#images.get(this.#owners.get(name) ?? '');
      if (owner && owner.id !== row.id) {
        owner.names = owner.names.filter((other) => other !== name);
        this.#images.put(owner);
      }
      this.#owners.set(name, row.id);
    }
    const all = [...new Set([...row.names, ...names])];
    const isDigestName = (name: string) => name.includes('@');
    row.names = [...all.filter((name) => !isDigestName(name)), ...all.filter(isDigestName)];
    this.#images.put(row);
  }

  removeAll(row: ImageRow): void {
    for (const name of row.names) this.#owners.delete(name);
    row.names = [];
    this.#images.put(row);
  }

  /**
   * Finds an image by its name (completed), else by its id or a unique beginning of it, with or without "sha256:", else
   * by the digest of a manifest. Throws INVALID_REQUEST when several ids begin so.
   */
  find(text: string): ImageRow | undefined {
    if (text === '') return undefined;
    return this.#byName(text) ?? this.#byId(text) ?? (isDigest(text) ? this.#byDigest(text) : undefined);
  }

  #byName(text: string): ImageRow | undefined {
    let names: (string | undefined)[];
    try {
      const reference = parseReference(text);
      names = reference.digest === undefined ? [tagName(reference)] : [digestName(reference, reference.digest)];
    } catch {
      return undefined; // an id, or a text that cannot be a name
    }
    return this.#images.get(this.#owners.get(names[0] ?? '') ?? '');
  }

  #byId(text: string): ImageRow | undefined {
    const hex = text.replace(/^sha256:/, '');
    if (!/^[0-9a-f]{1,64}$/.test(hex)) return undefined;
    const prefix = `sha256:${hex}`;
    const found = [...this.#images.values()].filter(({ id, names }) => names.length > 0 && id.startsWith(prefix));
    if (found.length > 1) throw new SluiceError('INVALID_REQUEST', `the id prefix "${text}" is ambiguous`);
    return found[0];
  }

  #byDigest(digest: string): ImageRow | undefined {
    for (const [name, id] of this.#owners) if (name.endsWith(`@${digest}`)) return this.#images.get(id);
    return undefined;
  }
}
