/** The process of image-floor.ts: answers each {@link FloorPull} with {@link FloorAnswer}. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { syncFileSystem } from '../../src/sys/sync.ts';

/** `remove` takes away what was pulled under the name. */
export interface FloorPull {
  id: number;
  kind: 'pull' | 'remove';
  name: string;
}

export interface FloorAnswer {
  id: number;
  error?: string;
}

interface Manifest {
  config: { digest: string };
  layers: { digest: string }[];
}

const [library = '', registry = '', folder = ''] = process.argv.slice(2);
const fetchLayer = koffi
  .load(library)
  .func('int floor_fetch_layer(int port, str path, str dir, str digest, str diff_id)');
const port = Number(registry.split(':')[1]);

const withoutAlgorithm = (digest: string) => digest.slice(digest.indexOf(':') + 1);
const folderOf = (name: string) => join(folder, name.replaceAll(/[/:]/g, '-'));

async function asked<T>(path: string): Promise<T> {
  const response = await fetch(`http://${registry}${path}`);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return (await response.json()) as T;
}

/** All layers at once, as many at a time as libuv's pool has threads, and then everything on the disk. */
async function pull(name: string): Promise<void> {
  const [repository = '', tag = ''] = name.split(':');
  const manifest = await asked<Manifest>(`/v2/${repository}/manifests/${tag}`);
  const blob = (digest: string) => `/v2/${repository}/blobs/${digest}`;
  const config = await asked<{ rootfs: { diff_ids: string[] } }>(blob(manifest.config.digest));
  const dir = folderOf(name);
  mkdirSync(dir);
  await Promise.all(
    manifest.layers.map(async ({ digest }, at) => {
      const { promise, resolve, reject } = Promise.withResolvers<number>();
      const diffId = config.rootfs.diff_ids[at] ?? '';
      const own = [port, blob(digest), join(dir, String(at)), withoutAlgorithm(digest), withoutAlgorithm(diffId)];
      fetchLayer.async(...own, (error: unknown, code: number) => (error ? reject(error) : resolve(code)));
      const code = await promise;
      if (code !== 0) throw new Error(`layer ${digest}: ${code}`);
    }),
  );
  await syncFileSystem(folder);
}

process.on('message', async ({ id, kind, name }: FloorPull) => {
  const answer: FloorAnswer = { id };
  try {
    if (kind === 'pull') await pull(name);
    else rmSync(folderOf(name), { recursive: true, force: true });
  } catch (error) {
    answer.error = (error as Error).message;
  }
  process.send?.(answer);
});
process.on('disconnect', () => process.exit());
