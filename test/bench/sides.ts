/** The daemons that `npm run bench` compares: Sluice in four configurations, and containerd. */
import { startContainerd } from '../rig/containerd.ts';
import { type RigDaemon, startSluice } from '../rig/daemon.ts';
import type { Registry } from '../rig/registry.ts';
import { ownCopy } from './release.ts';

/** `meaning` is what a table calls it. */
export const SIDES = {
  plugins: { meaning: 'pause, plugins as processes', sandboxMode: 'pause', inProcess: false, podsPerShim: 1 },
  pause: { meaning: 'pause, networks in process', sandboxMode: 'pause', inProcess: true, podsPerShim: 1 },
  pinned: { meaning: 'pinned, networks in process', sandboxMode: 'pinned', inProcess: true, podsPerShim: 1 },
  shared: { meaning: 'the same, 16 pods per shim', sandboxMode: 'pinned', inProcess: true, podsPerShim: 16 },
} as const satisfies Record<
  string,
  { meaning: string; sandboxMode: 'pause' | 'pinned'; inProcess: boolean; podsPerShim: number }
>;

export type SluiceSide = keyof typeof SIDES;
export type Side = SluiceSide | 'containerd';

export const SIDE_NAMES: readonly Side[] = [...(Object.keys(SIDES) as SluiceSide[]), 'containerd'];

/** Programs that all sides share, by absolute path, and the images they pull. */
export interface Common {
  registry: Registry;
  shim: string;
  runc: string;
  /** A second handler, "crun", where there is one. */
  crun?: string;
  containerd?: string;
  sandboxImage: string;
  /** The folder of the release to start a copy of (release.ts). Left out: the tree's sources. */
  release?: string;
  /** False: Sluice's pods have no IPv6 addresses of their own (`ipv6LinkLocal`). */
  linkLocal?: boolean;
  /** Of the daemon's own process. */
  env?: NodeJS.ProcessEnv;
}

/** `index` gives each daemon of one process a network of its own. The run-time state of each is on a tmpfs. */
export async function startSide(side: Side, index: number, common: Common): Promise<RigDaemon> {
  const { registry, shim, runc, crun, sandboxImage } = common;
  if (side === 'containerd') {
    if (!common.containerd) throw new Error('there is no containerd to start');
    const { containerd } = common;
    return startContainerd({ registry, index, stateInMemory: true, containerd, shim, runc, crun, sandboxImage });
  }
  const { sandboxMode, inProcess, podsPerShim } = SIDES[side];
  const runtime = (binary: string) => ({ binary, shim, sandbox_mode: sandboxMode, pods_per_shim: podsPerShim });
  return startSluice({
    registry,
    index,
    stateInMemory: true,
    program: common.release === undefined ? undefined : ownCopy(common.release, `${side}${index}`),
    env: common.env,
    linkLocal: common.linkLocal,
    config: {
      default_runtime: 'runc',
      runtimes: { runc: runtime(runc), ...(crun ? { crun: runtime(crun) } : {}) },
      cni: { in_process: inProcess },
      images: { sandbox_image: sandboxImage },
      log: { level: 'info' },
    },
  });
}
