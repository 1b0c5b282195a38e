import type { StageName } from '../../stages.ts';

export interface StageLimit {
  limit: number;
  /** The rule, for people. */
  text: string;
}

/**
 * The default limits of the stages on a machine with `cores` cores. What serialises decides: runc and shims on CPU (more at once
 * only makes each one slower), CNI plugins on file and xtables locks and on remote address management (some more than cores, so
 * that the lock is never idle; not as many as pods, who would all queue on it), registries on the network. A stage that only
 * waits for others (a pull in flight, a container's grace period) must not hold up those that need not wait.
 */
export function stageLimits(cores: number): Record<StageName, StageLimit> {
  const times = (factor: number, least: number): StageLimit => ({
    limit: Math.max(least, factor * cores),
    text: `${factor} × cores, at least ${least}`,
  });
  const fixed = (limit: number): StageLimit => ({ limit, text: String(limit) });
  const free = fixed(1024);
  const kernel = times(4, 8);
  const process = times(2, 4);
  return {
    admit: free,
    reserve: free,
    netns: kernel,
    network: kernel,
    image: free,
    rootfs: kernel,
    files: kernel,
    spec: kernel,
    shim: process,
    create: process,
    start: process,
    ready: free,
    user: kernel,
    volumes: kernel,
    io: kernel,
    kill: free,
    task: kernel,
    forget: free,
    resolve: fixed(16),
    layers: times(2, 4),
    commit: fixed(16),
  };
}
