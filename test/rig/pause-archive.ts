/** The built-in pause image as an OCI archive, for a containerd that has no registry to pull from. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { pauseProgram } from '../../src/workers/image/pause-program.ts';
import { tarball } from './tarball.ts';

const INDEX = 'application/vnd.oci.image.index.v1+json';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar';

/** Writes an archive for `ctr images import`, whose one image is called `reference`. */
export function writePauseArchive(file: string, reference: string): void {
  const blobs = new Map<string, Buffer>();
  const add = (mediaType: string, content: Buffer) => {
    const digest = createHash('sha256').update(content).digest('hex');
    blobs.set(digest, content);
    return { mediaType, digest: `sha256:${digest}`, size: content.length };
  };
  const json = (value: object) => Buffer.from(JSON.stringify(value));
  const layer = add(LAYER, tarball([{ path: 'pause', content: pauseProgram(process.arch), mode: 0o755 }]));
  const config = add(
    CONFIG,
    json({
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      os: 'linux',
      config: { Entrypoint: ['/pause'] },
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
    }),
  );
  const manifest = add(MANIFEST, json({ schemaVersion: 2, mediaType: MANIFEST, config, layers: [layer] }));
  const named = { ...manifest, annotations: { 'io.containerd.image.name': reference } };
  const entries = [
    { path: 'oci-layout', content: json({ imageLayoutVersion: '1.0.0' }) },
    { path: 'index.json', content: json({ schemaVersion: 2, mediaType: INDEX, manifests: [named] }) },
    ...[...blobs].map(([digest, content]) => ({ path: `blobs/sha256/${digest}`, content })),
  ];
  writeFileSync(file, tarball(entries.map((entry) => ({ ...entry, mode: 0o644 }))));
}
