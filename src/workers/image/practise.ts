import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { fetchLayer } from './fetch-layer.ts';
import { FileQueue, fileQueueMemory } from './file-queue.ts';
import { TarWriter } from './write-archive.ts';
import { collectAll } from './young-garbage.ts';

export interface Practise {
  /** Where it works, best on a tmpfs. It is made, and removed. */
  folder: string;
}

/** With fewer, V8 has not yet made fast code of what runs for each file; more take longer than they save. */
const FILES = 300;
/** Of each file: what small files of images have. */
const BYTES = 2000;

/**
 * Unpacks a small layer of its own making and throws it away: V8 then has fast code for the layers to come. 40 to 60 ms
 * of CPU, of which the next 1500 files give back 60 to 80 (docs/develop/benchmarks.md, "Images"). Throws what
 * {@link fetchLayer} throws, and Node's errors.
 */
export async function practise({ folder }: Practise): Promise<void> {
  await rm(folder, { recursive: true, force: true }); // of a daemon that was killed meanwhile
  await mkdir(folder, { recursive: true, mode: 0o700 });
  try {
    const tar = await archive(join(folder, 'tar'));
    const blob = gzipSync(tar, { level: 1 });
    const path = join(folder, 'blob');
    await writeFile(path, blob);
    const source = { url: pathToFileURL(path).href, headers: {}, authorizations: {}, tls: {}, dialTimeoutMs: 1000 };
    // What is left to others is a part of it: none of them is there, and this thread takes it back.
    const queue = new FileQueue(fileQueueMemory());
    queue.join();
    const layer = {
      source,
      digest: digestOf(blob),
      size: blob.length,
      diffId: digestOf(tar),
      mediaType: '',
      dir: join(folder, 'layer'),
      progressTimeoutMs: 10_000,
    };
    await fetchLayer(layer, { queue });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  collectAll();
}

async function archive(path: string): Promise<Buffer> {
  {
    using tar = new TarWriter(path);
    const content = randomBytes(BYTES);
    for (let at = 0; at < FILES; at++) {
      const dir = `d${Math.floor(at / 100)}/`;
      if (at % 100 === 0) tar.header({ path: dir, type: '5', mode: 0o755 });
      tar.header({ path: `${dir}f${at}`, type: '0', size: content.length, mode: 0o644 });
      tar.body(content);
    }
    tar.end();
  }
  return readFile(path);
}

const digestOf = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
