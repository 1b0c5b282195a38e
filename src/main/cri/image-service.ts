/**
 * Sluice's own image service beside CRI's, on the same socket, for `sluice image`: pulls with progress, archives, and
 * the removal of what nobody uses. Its messages are JSON: it has one client, of the same version.
 */
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Images } from '../../node/images/images.ts';
import type { LayerProgress } from '../../node/images/layer-store.ts';
import type { PullProgress, Pulls } from '../../pipeline/jobs/pulls.ts';
import type { CallInfo } from './call.ts';

/** JSON in the place of protobuf. */
function json<T extends object>() {
  return {
    encode: (message: T) => ({ finish: () => Buffer.from(JSON.stringify(message)) }),
    decode: (bytes: Uint8Array): T => (bytes.length === 0 ? {} : JSON.parse(Buffer.from(bytes).toString('utf8'))) as T,
  };
}

export interface PullCall {
  image: string;
  auth?: AuthConfig;
}

export interface ImportCall {
  /** A regular file that the daemon can read. */
  path: string;
  /** For an image without a name. */
  name?: string;
}

export interface CollectCall {
  /** Bytes that images may take: those used last stay. Absent: all unused ones go. */
  keepBytes?: number;
}

export interface ExportCall {
  images: string[];
  /** The file to write. */
  path: string;
}

/** What a long call reports; the last one is `done`. */
export type ImageEvent =
  | { kind: 'layers'; layers: LayerProgress[] }
  | { kind: 'layer'; digest: string; size: number; remade: boolean }
  | { kind: 'done'; images: { id?: string; names: string[]; digest?: string; remade?: boolean }[] };

export interface Removed {
  images: { id: string; names: string[] }[];
  bytes: number;
}

export const ImagesDefinition = {
  name: 'Images',
  fullName: 'sluice.v1.Images',
  methods: {
    pull: method('Pull', json<PullCall>(), json<ImageEvent>(), true),
    import: method('Import', json<ImportCall>(), json<ImageEvent>(), true),
    export: method('Export', json<ExportCall>(), json<ImageEvent>(), true),
    removeUnused: method('RemoveUnused', json<CollectCall>(), json<Removed>(), false),
    pulls: method('Pulls', json<Record<string, never>>(), json<{ pulls: PullProgress[] }>(), false),
  },
} as const;

function method<Q, S, R extends boolean>(name: string, requestType: Q, responseType: S, responseStream: R) {
  return { name, requestType, responseType, requestStream: false as const, responseStream };
}

/** Milliseconds between two reports. */
const REPORT_MS = 200;

interface ImageServices {
  images: Pick<Images, 'import' | 'export' | 'removeUnused' | 'find' | 'release' | 'sweep'>;
  pulls: Pick<Pulls, 'pull' | 'progress'>;
}

export function imagesVerbs({ images, pulls }: ImageServices) {
  return {
    async *pull({ image, auth }: PullCall, call: CallInfo): AsyncGenerator<ImageEvent> {
      const layers = () => pulls.progress.find((one) => one.image === image)?.layers ?? [];
      const row = yield* reporting(pulls.pull({ image, auth }, call), layers);
      yield { kind: 'done', images: [{ id: row.id, names: row.names }] };
    },

    async *import({ path, name }: ImportCall, call: CallInfo): AsyncGenerator<ImageEvent> {
      const progress: LayerProgress[] = [];
      const held: string[] = [];
      try {
        const options = { name, progress, signal: call.left, onHold: (id: string) => held.push(id) };
        const rows = yield* reporting(images.import(path, options), () => progress);
        yield { kind: 'done', images: rows.map(({ id, names }) => ({ id, names })) };
      } finally {
        images.release(held);
        await images.sweep();
      }
    },

    async *export({ images: names, path }: ExportCall): AsyncGenerator<ImageEvent> {
      const rows = names.map((name) => {
        const row = images.find(name);
        if (!row) throw new SluiceError('IMAGE_NOT_FOUND', `image ${name} is not on this node`);
        return row;
      });
      const events: ImageEvent[] = [];
      const work = images.export(rows, path, (layer) => events.push({ kind: 'layer', ...layer }));
      const done = yield* draining(work, events);
      yield { kind: 'done', images: done };
    },

    async removeUnused(call: CollectCall): Promise<Removed> {
      const { images: rows, bytes } = await images.removeUnused(call);
      return { images: rows.map(({ id, names }) => ({ id, names })), bytes };
    },

    pulls: () => ({ pulls: [...pulls.progress] }),
  };
}

/** Reports the layers while `work` goes on, and returns its result. */
async function* reporting<T>(work: Promise<T>, layers: () => readonly LayerProgress[]): AsyncGenerator<ImageEvent, T> {
  const tick = Promise.withResolvers<void>();
  let wake = tick;
  const timer = setInterval(() => wake.resolve(), REPORT_MS);
  const settled = work.then(
    () => true,
    () => true,
  );
  try {
    while (!(await Promise.race([settled, wake.promise.then(() => false)]))) {
      wake = Promise.withResolvers();
      yield { kind: 'layers', layers: layers().map((layer) => ({ ...layer })) };
    }
    return await work;
  } finally {
    clearInterval(timer);
  }
}

async function* draining<T>(work: Promise<T>, events: ImageEvent[]): AsyncGenerator<ImageEvent, T> {
  let isOver = false;
  const over = work.then(
    () => {
      isOver = true;
    },
    () => {
      isOver = true;
    },
  );
  while (!isOver) {
    await Promise.race([over, new Promise((resolve) => setTimeout(resolve, REPORT_MS))]);
    yield* events.splice(0);
  }
  return await work;
}
