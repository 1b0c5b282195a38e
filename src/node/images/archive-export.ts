/**
 * An image archive that docker, containerd, podman and Sluice can import: an OCI layout with docker's manifest.json
 * beside it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { WriteArchive } from '../../workers/image/write-archive.ts';
import type { handlers } from '../../workers/image.ts';
import type { Pool } from '../threads/pool.ts';
import type { BlobStore } from './blob-store.ts';
import { digestOf } from './digest.ts';
import type { ImageRow } from './rows.ts';

export interface ExportOptions {
  pool: Pool<typeof handlers>;
  blobs: BlobStore;
  /** A new folder for layers that are made anew; removed at the end. */
  scratch: string;
  /** A layer's folder, which holds `fs`. */
  layerFolder: (id: string) => string;
  /** The file to write. */
  path: string;
  onLayer?: (layer: { digest: string; size: number; remade: boolean }) => void;
}

export interface ExportedImage {
  names: string[];
  digest: string;
  /** Layers were made anew because their blobs are not kept: the digests are not those of the registry. */
  remade: boolean;
}

interface Part {
  digest: string;
  size: number;
  mediaType: string;
  source: { file: string } | { text: string };
}

interface Whole {
  manifest: Part;
  config: Part;
  layers: Part[];
  remade: boolean;
}

const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar';

/** Writes the images to one archive, each under all its tags. Throws what file work throws, ENOSPC among it. */
export async function exportImages(rows: readonly ImageRow[], options: ExportOptions): Promise<ExportedImage[]> {
  const { pool, path, scratch } = options;
  const members = new Map<string, WriteArchive['members'][number]>();
  const index: object[] = [];
  const docker: object[] = [];
  const exported: ExportedImage[] = [];
  try {
    for (const row of rows) {
      const whole = (await kept(row, options)) ?? (await remade(row, options));
      for (const part of [whole.manifest, whole.config, ...whole.layers])
        members.set(part.digest, { name: nameOf(part), ...part.source });
      const tags = row.names.filter((name) => !name.includes('@'));
      const { digest, size, mediaType } = whole.manifest;
      for (const tag of tags.length > 0 ? tags : [undefined]) {
        const ref = tag?.slice(tag.lastIndexOf(':') + 1);
        const annotations = tag && { 'io.containerd.image.name': tag, 'org.opencontainers.image.ref.name': ref };
        index.push({ mediaType, digest, size, annotations });
      }
      docker.push({ Config: nameOf(whole.config), RepoTags: tags, Layers: whole.layers.map(nameOf) });
      exported.push({ names: tags, digest, remade: whole.remade });
    }
    const texts = {
      'oci-layout': { imageLayoutVersion: '1.0.0' },
      'index.json': { schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests: index },
      'manifest.json': docker,
    };
    const first = Object.entries(texts).map(([name, json]) => ({ name, text: JSON.stringify(json) }));
    await pool.call('writeArchive', { path, members: [...first, ...members.values()] });
    return exported;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

const nameOf = ({ digest }: Part) => `blobs/${digest.replace(':', '/')}`;

/** The image as the registry sent it; undefined unless all of its blobs are kept. */
async function kept({ blobs: known }: ImageRow, { blobs, onLayer }: ExportOptions): Promise<Whole | undefined> {
  if (!known) return undefined;
  const all = [known.manifest, known.config, ...known.layers];
  for (const { digest } of all) if (!(await blobs.has(digest))) return undefined;
  for (const { digest, size } of known.layers) onLayer?.({ digest, size, remade: false });
  const part = (blob: (typeof all)[number]) => ({ ...blob, source: { file: blobs.pathOf(blob.digest) } });
  return { manifest: part(known.manifest), config: part(known.config), layers: known.layers.map(part), remade: false };
}

async function remade(row: ImageRow, options: ExportOptions): Promise<Whole> {
  const { pool, scratch, layerFolder, onLayer } = options;
  const layers: Part[] = [];
  for (const [number, id] of row.layers.entries()) {
    const file = join(scratch, `${row.id.slice(-12)}-${number}`);
    const { digest, size } = await pool.call('exportLayer', { dir: layerFolder(id), path: file });
    layers.push({ digest, size, mediaType: LAYER_TYPE, source: { file } });
    onLayer?.({ digest, size, remade: true });
  }
  const rootfs = { type: 'layers', diff_ids: layers.map(({ digest }) => digest) };
  const config = textPart({ ...row.file, config: row.config, rootfs }, CONFIG_TYPE);
  const descriptor = ({ mediaType, digest, size }: Part) => ({ mediaType, digest, size });
  const manifest = textPart(
    { schemaVersion: 2, mediaType: MANIFEST_TYPE, config: descriptor(config), layers: layers.map(descriptor) },
    MANIFEST_TYPE,
  );
  return { manifest, config, layers, remade: true };
}

function textPart(json: object, mediaType: string): Part {
  const text = JSON.stringify(json);
  const body = Buffer.from(text);
  return { digest: digestOf(body), size: body.length, mediaType, source: { text } };
}
