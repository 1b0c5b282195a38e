/** What the benchmark of pulls measures: both daemons, and the floor (image-floor.ts). */
import type { RigDaemon } from '../rig/daemon.ts';
import { imageSpec } from '../rig/messages.ts';

export const PATIENCE = { timeoutMs: 240_000 };

/** Whoever pulls. Names of images are those of image-server.ts: repository:tag. */
export interface Puller extends AsyncDisposable {
  /** On the file system that the images come to. */
  folder: string;
  pid(): number;
  start(): Promise<void>;
  stop(): Promise<unknown>;
  pull(name: string): Promise<void>;
  remove(name: string): Promise<void>;
  /** Absent: it launches nothing. */
  daemon?: RigDaemon;
}

/** A daemon for which `bench.test` is image-server.ts. */
export function pullerOf(daemon: RigDaemon): Puller {
  const image = (name: string) => ({ image: imageSpec(`bench.test/${name}`) });
  return {
    folder: daemon.folder,
    pid: () => daemon.pid(),
    start: () => daemon.start(),
    stop: () => daemon.stop(),
    pull: async (name) => {
      await daemon.cri.pullImage(image(name), PATIENCE);
    },
    remove: async (name) => {
      await daemon.cri.removeImage(image(name), PATIENCE);
    },
    daemon,
    [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
  };
}
