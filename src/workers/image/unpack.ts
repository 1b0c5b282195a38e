import { mkdirSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, SluiceError } from '../../errors.ts';
import { type Applied, Applier } from './apply.ts';
import { decompress } from './decompress.ts';
import { TarError } from './tar-header.ts';
import { TarReader } from './tar-reader.ts';
import { Digester, type Expected, Verified } from './verified.ts';
import { ZstdError } from './zstd.ts';

export interface UnpackJob {
  /** The blob as the registry has it. */
  blob: Expected;
  /** Digest of the content without its compression. */
  diffId: string;
  /** Folder to make; the layer is in its `fs`. Nothing of it is left after a failure. */
  dir: string;
}

export interface Unpacked extends Applied {
  /** Bytes of the tar archive. */
  unpackedBytes: number;
}

/** Content that breaks the format shows as one of these when it is put on disk (a name too long, a file that should be a folder). */
const FAULTS_OF_THE_CONTENT = new Set(['ENAMETOOLONG', 'ELOOP', 'ENOTDIR', 'ENOENT', 'EEXIST', 'EISDIR', 'EINVAL']);

/**
 * One layer in one pass: verified as it comes, decompressed, verified again, unpacked. `onUnpacked` hears of each piece.
 * Throws IMAGE_INVALID with what was expected and what came, DISK_FULL, and what `source` throws.
 */
export async function unpack(
  source: AsyncIterable<Buffer>,
  { blob, diffId, dir }: UnpackJob,
  onUnpacked: (bytes: number) => void = () => {},
): Promise<Unpacked> {
  const verified = new Verified(source, blob);
  try {
    mkdirSync(dir, { mode: 0o711 });
    mkdirSync(join(dir, 'fs'), { mode: 0o755 });
    const content = new Digester(diffId);
    let applied: Applied;
    try {
      applied = await apply(verified, join(dir, 'fs'), (chunk) => {
        content.update(chunk);
        onUnpacked(chunk.length);
      });
      await verified.drain();
    } catch (error) {
      if (isFaultOfContent(error)) {
        // Damaged in transit, or made so? The digest of all of it tells.
        await verified.drain();
        checkBlob(verified.digester, blob);
      }
      throw explained(error, blob.digest);
    }
    checkBlob(verified.digester, blob);
    if (content.digest !== diffId) {
      throw new SluiceError(
        'IMAGE_INVALID',
        `layer ${blob.digest}: wrong diffID: the image config says ${diffId}, the content has ${content.digest}`,
      );
    }
    return { ...applied, unpackedBytes: content.size };
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    throw error;
  } finally {
    await verified.close();
  }
}

async function apply(source: AsyncIterable<Buffer>, root: string, onChunk: (chunk: Buffer) => void): Promise<Applied> {
  using applier = new Applier(root, processUmask());
  const reader = new TarReader(applier);
  for await (const chunk of decompress(source)) {
    onChunk(chunk);
    reader.write(chunk);
  }
  reader.finish();
  return applier.finish();
}

function checkBlob(seen: Digester, expected: Expected): void {
  if (expected.size !== undefined && seen.size !== expected.size) {
    throw new SluiceError(
      'IMAGE_INVALID',
      `layer ${expected.digest}: wrong size: the manifest says ${expected.size} bytes, ${seen.size} came`,
    );
  }
  if (seen.digest !== expected.digest) {
    throw new SluiceError(
      'IMAGE_INVALID',
      `layer ${expected.digest}: wrong digest: what came has ${seen.digest} (${seen.size} bytes)`,
    );
  }
}

function isFaultOfContent(error: unknown): boolean {
  if (error instanceof TarError || error instanceof ZstdError) return true;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  return /^(Z_|ZSTD_|ERR_BUFFER_TOO_LARGE|ERR_STREAM_PREMATURE_CLOSE)/.test(code) || FAULTS_OF_THE_CONTENT.has(code);
}

function explained(error: unknown, digest: string): unknown {
  if (error instanceof SluiceError || !(error instanceof Error)) return error;
  const code = codeOf(error);
  if (code === 'DISK_FULL') return new SluiceError(code, `layer ${digest} does not fit on the disk`, { cause: error });
  if (!isFaultOfContent(error)) return error;
  return new SluiceError('IMAGE_INVALID', `layer ${digest} cannot be unpacked: ${error.message}`, { cause: error });
}

let umask: number | undefined;

/** Read from /proc: process.umask() sets it for a moment to learn it. */
function processUmask(): number {
  umask ??= Number.parseInt(/^Umask:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '077', 8);
  return umask;
}
