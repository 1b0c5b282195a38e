import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type { MessagePort } from 'node:worker_threads';
import { codeOf, SluiceError } from '../../errors.ts';
import { measureTree, type Usage } from '../measure-tree.ts';
import { Applier } from './apply.ts';
import type { BlobSource } from './blob-source.ts';
import { toBytes } from './byte-paths.ts';
import { decompress } from './decompress.ts';
import { Download } from './download.ts';
import type { FileQueue } from './file-queue.ts';
import type { GiveWay } from './give-way.ts';
import { invalid } from './invalid.ts';
import { algorithmOf, compare, isInvalid, LayerBlob } from './layer-blob.ts';
import { LayerLine } from './line.ts';
import type { WhiteoutForm } from './opaque.ts';
import { TarReader } from './tar.ts';
import { settle } from './temporary.ts';
import { removeTree } from './tree.ts';
import { makeUnfinished } from './unfinished.ts';

/** A layer may decompress to 4 GiB in any case, and to so many times its size beyond that: more is a bomb. */
const MAX_UNPACKED = 4 * 2 ** 30;
const MAX_RATIO = 200;

export interface FetchLayer {
  source: BlobSource;
  /** Of the blob as the registry has it: `sha256:…` or `sha512:…`, and its bytes. */
  digest: string;
  size: number;
  /** Of the archive once it is decompressed. */
  diffId: string;
  /** The blob is the file of an artifact, and is stored as it is under this path; `diffId` does not count. */
  name?: string;
  /** Only for messages: the first bytes decide about the format. */
  mediaType: string;
  /** What shall be the layer's folder; the files come into its `fs`. A folder that is there already stays. */
  dir: string;
  progressTimeoutMs: number;
  /** First pause before a retry, doubled each time. Default 250 ms. */
  retryDelayMs?: number;
  /** How it says what it hides. Default: devices, for overlayfs. */
  whiteouts?: WhiteoutForm;
  /** Where the blob is kept under its digest; absent: nowhere. */
  keep?: string;
  /** Inode numbers of folders of layers that were removed lately: their neighbourhood is slow to make files in. */
  avoid?: readonly number[];
  /** For cancelling, new authorizations and progress (see line.ts). Without it, none of these. */
  port?: MessagePort;
}

/** What a thread for layers has to do with others. */
export interface Beside {
  /** Threads without a layer help to make the files. */
  queue?: FileQueue;
  /** The thread stands still while a launch is late. */
  way?: GiveWay;
}

export interface FetchedLayer extends Usage {
  /** Seconds spent waiting for the registry, those in which a late launch went first, and all others. */
  downloadSeconds: number;
  pauseSeconds: number;
  unpackSeconds: number;
  /**
   * Folders (paths in the layer, one byte per character) that the archive needs and does not bring: they belong to root
   * with 0755 until inheritAttributes has copied owner and mode from the layers below. Rare, since builders write all
   * folders.
   */
  implied: string[];
  /**
   * Hard links to files of layers below, as names in the layer (one byte per character): inheritAttributes makes them.
   */
  lowerLinks: { path: string; target: string }[];
  /** Bytes and inodes must be measured again once the layer is on the disk. */
  growsWhenWritten: boolean;
}

/**
 * Downloads, verifies, decompresses, verifies and unpacks one layer in one pass. Nothing is stored but the files
 * themselves, and they get their final name only when both digests are right. A failure leaves nothing behind; a crash
 * may leave `DIR.tmp-…`, which removeLayer removes. When bytes of several answers were put together and the result is
 * wrong, the registry may have lied about its ranges: the layer is then fetched once more over one connection.
 *
 * Throws IMAGE_INVALID, REGISTRY_DENIED (details: {@link Refusal}), IMAGE_NOT_FOUND, REGISTRY_UNAVAILABLE, TIMED_OUT,
 * DISK_FULL, and CALLER_GONE when main has cancelled it.
 */
export async function fetchLayer(layer: FetchLayer, beside: Beside = {}): Promise<FetchedLayer> {
  let download: Download | undefined;
  using line = new LayerLine(layer.port, () => download?.blob.received ?? 0);
  const onDownload = (made: Download) => (download = made);
  const fetch = (noRanges: boolean) => fetchInto(layer, { line, noRanges, onDownload, beside });
  try {
    try {
      return await fetch(false);
    } catch (error) {
      if (!isInvalid(error) || !download?.blob.joined) throw error;
      return await fetch(true);
    }
  } catch (error) {
    if (line.signal.aborted) throw new SluiceError('CALLER_GONE', `layer ${layer.digest}: the pull was cancelled`);
    throw withLayer(error, layer);
  }
}

interface Fetching {
  line: LayerLine;
  noRanges: boolean;
  onDownload: (download: Download) => void;
  beside: Beside;
}

async function fetchInto(layer: FetchLayer, { line, noRanges, onDownload, beside }: Fetching): Promise<FetchedLayer> {
  const began = performance.now();
  mkdirSync(dirname(layer.dir), { recursive: true, mode: 0o700 });
  const temporary = makeUnfinished(layer.dir, { avoid: layer.avoid });
  const abort = new AbortController();
  const signal = AbortSignal.any([abort.signal, line.signal]);
  const download = new Download({ ...layer, signal, noRanges, renew: line.renew });
  onDownload(download);
  try {
    const { usage, ...unpacked } = await unpack(layer, download, { root: `${temporary}/fs`, abort, beside });
    const used = usage ? withFolders(usage, temporary) : await measureTree(temporary);
    await settle(temporary, layer.dir);
    const downloadSeconds = download.seconds;
    const unpackSeconds = (performance.now() - began) / 1000 - downloadSeconds - unpacked.pauseSeconds;
    return { ...used, ...unpacked, downloadSeconds, unpackSeconds };
  } catch (error) {
    await removeTree(toBytes(temporary));
    throw error;
  }
}

interface Unpacked extends Pick<FetchedLayer, 'pauseSeconds' | 'implied' | 'lowerLinks' | 'growsWhenWritten'> {
  usage: Usage | undefined;
}

/** The layer's own folder, and its `fs`. */
function withFolders({ bytes, inodes }: Usage, dir: string): Usage {
  const blocks = [dir, `${dir}/fs`].reduce((sum, folder) => sum + lstatSync(folder).blocks, 0);
  return { bytes: bytes + blocks * 512, inodes: inodes + 2 };
}

function resultOf(applier: Applier, { pauseSeconds }: LayerBlob): Unpacked {
  const { implied, lowerLinks, growsWhenWritten } = applier;
  const links = [...lowerLinks].map(([path, target]) => ({ path, target }));
  return {
    pauseSeconds,
    implied: [...implied],
    lowerLinks: links,
    growsWhenWritten: growsWhenWritten || links.length > 0,
    usage: applier.usage(),
  };
}

interface Unpacking {
  root: string;
  abort: AbortController;
  beside: Beside;
}

async function unpack(layer: FetchLayer, download: Download, unpacking: Unpacking): Promise<Unpacked> {
  const { root, abort, beside } = unpacking;
  if (layer.name !== undefined) return storeFile(layer, layer.name, download, unpacking);
  const applier = new Applier(toBytes(root), layer.whiteouts, beside.queue);
  const reader = new TarReader(applier);
  const archive = createHash(algorithmOf('diffID', layer.diffId));
  await using blob = new LayerBlob(download, layer, abort, beside.way);
  let unpacked = 0;
  try {
    const write = (piece: Buffer) => {
      unpacked += piece.length;
      if (unpacked > MAX_UNPACKED && unpacked > layer.size * MAX_RATIO)
        throw invalid(`the layer decompresses to more than ${MAX_RATIO} times its ${layer.size} bytes`);
      archive.update(piece);
      reader.write(piece);
    };
    await decompress(blob.pieces, write, { verified: true }); // by the diffID
    await blob.check();
    compare('diffID', layer.diffId, archive.digest('hex'));
    reader.end();
    applier.finish();
    return resultOf(applier, blob);
  } catch (error) {
    // Bytes damaged on the way look like a bad archive: the digest of the whole blob tells the two apart.
    if (isInvalid(error)) await blob.checkRest(error as SluiceError);
    throw error;
  } finally {
    applier.close();
  }
}

/** Stores a blob as one file, readable by everybody. */
async function storeFile(
  layer: FetchLayer,
  name: string,
  download: Download,
  { root, abort, beside }: Unpacking,
): Promise<Unpacked> {
  const applier = new Applier(toBytes(root));
  await using blob = new LayerBlob(download, layer, abort, beside.way);
  const now = { seconds: 0, nanoseconds: 0 };
  const owner = { uid: 0, gid: 0, major: 0, minor: 0, xattrs: [] };
  try {
    applier.entry({ ...owner, path: toBytes(name), link: '', type: 'file', size: layer.size, mode: 0o644, mtime: now });
    let offset = 0;
    for await (const piece of blob.pieces) {
      applier.data(piece, offset);
      offset += piece.length;
    }
    applier.end();
    await blob.check();
    applier.finish();
    // Its folders belong to root, whatever lies below.
    return { ...resultOf(applier, blob), implied: [] };
  } finally {
    applier.close();
  }
}

/** The error with the layer that it is about. */
function withLayer(error: unknown, { digest, mediaType }: FetchLayer): SluiceError {
  if (!(error instanceof SluiceError)) return new SluiceError(codeOf(error), `layer ${digest}`, { cause: error });
  const named = new SluiceError(error.code, `layer ${digest} (${mediaType}): ${error.message}`, { cause: error.cause });
  named.details = error.details;
  return named;
}
