/**
 * Builds a layer: a ustar archive in memory, parents made as they are needed, programs together with their libraries.
 */
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { run } from './proc.ts';

export class Rootfs {
  readonly #blocks: Buffer[] = [];
  readonly #seen = new Set<string>();

  directory(path: string, mode = 0o755): this {
    if (this.#seen.has(path)) return this;
    this.#parents(path);
    this.#seen.add(path);
    return this.#entry(`${path}/`, '5', mode, 0);
  }

  file(path: string, content: string | Uint8Array, mode = 0o644): this {
    this.#parents(path);
    const data = Buffer.from(content);
    this.#entry(path, '0', mode, data.length);
    this.#blocks.push(data, Buffer.alloc(-data.length & 511));
    return this;
  }

  hardLink(path: string, to: string): this {
    this.#parents(path);
    return this.#entry(path, '1', 0o755, 0, to);
  }

  /** An entry just as given, for layers that no honest builder makes. */
  raw(path: string, type: '0' | '1' | '2' | '5', content = '', link = ''): this {
    this.#entry(path, type, 0o644, content.length, link);
    if (content) this.#blocks.push(Buffer.from(content), Buffer.alloc(-content.length & 511));
    return this;
  }

  /** A program of this machine at `path`, and the shared libraries that ldd names, each once. */
  async program(source: string, path = source.slice(1)): Promise<this> {
    this.file(path, readFileSync(source), 0o755);
    const { stdout } = await run('ldd', [source]);
    for (const [, library] of stdout.matchAll(/(?:=> |^\s*)(\/\S+)/gm)) {
      if (!library || this.#seen.has(library)) continue;
      this.#seen.add(library);
      this.file(library.slice(1), readFileSync(library), 0o755);
    }
    return this;
  }

  /** The archive with its end marker. */
  done(): Buffer {
    return Buffer.concat([...this.#blocks, Buffer.alloc(1024)]);
  }

  #parents(path: string): void {
    const parent = dirname(path);
    if (parent !== '.' && parent !== '/') this.directory(parent);
  }

  #entry(path: string, type: string, mode: number, size: number, link = ''): this {
    const header = Buffer.alloc(512);
    let name = path;
    if (name.length > 100) {
      header.write(dirname(path), 345, 155); // the prefix field
      name = basename(path);
    }
    const octal = (value: number, at: number, length: number) =>
      header.write(value.toString(8).padStart(length - 1, '0'), at, length - 1);
    header.write(name, 0, 100);
    octal(mode, 100, 8);
    octal(0, 108, 8);
    octal(0, 116, 8);
    octal(size, 124, 12);
    octal(0, 136, 12);
    header.write(type, 156);
    header.write(link, 157, 100);
    header.write('ustar\0' + '00', 257);
    header.fill(' ', 148, 156);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    this.#blocks.push(header);
    return this;
  }
}
