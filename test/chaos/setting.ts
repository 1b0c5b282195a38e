/** What the storms of kills share: the daemon that is killed, the callers beside, and the look for what is left. */
import { chmodSync, cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { inventory } from '../faults/lab.ts';
import { removePods } from '../rig/cri.ts';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { cniBinDirs } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import type { Actor } from './actor.ts';
import { type KillPoint, killAt } from './kill-points.ts';
import { HANDLERS } from './requests.ts';

export const IMAGE = 'docker.io/library/busybox:latest';
export const OTHERS = ['1', '2', '3'].map((n) => `registry.k8s.io/k8s-staging-cri-tools/test-image-${n}:latest`);
/**
 * Pods whose names begin so get no network: the last of the plugins that are slow refuses them, a second after the
 * others have made theirs.
 */
export const REFUSED = 'refused';
export const REFUSAL = 'the storm says no';
const WAIT = '[ "$CNI_COMMAND" = VERSION ] || sleep 0.$(( $$ % 5 ))\n';
const REFUSE = `case "$CNI_COMMAND $CNI_ARGS" in
  ADD*K8S_POD_NAME=${REFUSED}*) sleep 1; echo '{"cniVersion":"1.0.0","code":111,"msg":"${REFUSAL}"}'; exit 1 ;;
esac
`;
const LOG_KEPT = '/tmp/sluice-storm';

export interface Setting {
  registry: Registry;
  /** Number of the network; see the rig. */
  index: number;
  /** Read at each start. */
  env: NodeJS.ProcessEnv;
  /** CNI plugins take up to 0.4 s more, so that they often outlive the daemon that started them. */
  slowPlugins: boolean;
}

export function stormDaemon({ registry, index, env, slowPlugins }: Setting): Promise<SluiceDaemon> {
  return startSluice({
    registry,
    index,
    env,
    prepare: async (place, network) => {
      const bin = join(place, 'plugins');
      mkdirSync(bin);
      if (slowPlugins) {
        wrapPlugin(bin, 'bridge', WAIT);
        wrapPlugin(bin, 'portmap', `${WAIT}${REFUSE}`);
      }
      return {
        cni: { bin_dirs: [bin, ...network.binDirs] },
        runtimes: Object.fromEntries(Object.entries(HANDLERS).filter(([name]) => name !== '')),
      };
    },
  });
}

/** A plugin of the same name that does something else first. */
function wrapPlugin(bin: string, name: string, first: string): void {
  const [real] = cniBinDirs();
  const path = join(bin, name);
  writeFileSync(path, `#!/bin/sh\n${first}exec ${join(real ?? '/opt/cni/bin', name)}\n`);
  chmodSync(path, 0o755);
}

export const pointName = ({ job, stage, moment, during }: KillPoint) =>
  `${job} ${stage} ${moment}${during === 'later' ? ' in a recovery' : ''}`;

/** One actor until the daemon dies. A request that fails while it lives is a problem. */
export async function act(actor: Actor, daemon: SluiceDaemon, end: AbortSignal, report: (problem: string) => void) {
  for (;;) {
    try {
      await actor.step();
    } catch (error) {
      const died = await Promise.race([daemon.ended().then(() => true), sleep(1000)]);
      if (!died && !end.aborted) {
        report(`a request failed: ${words(error)}`);
        await sleep(200);
        continue;
      }
      return;
    }
    if (end.aborted) return;
  }
}

export function words(error: unknown): string {
  const { details } = error as { details?: string };
  return details ?? (error instanceof Error ? error.message : String(error));
}

/** Keeps the daemon's log beyond its private folder; gives the path. */
export function keepLog({ folder }: SluiceDaemon, seed: number): string {
  const kept = `${LOG_KEPT}-${seed}.log`;
  cpSync(join(folder, 'log'), kept);
  return kept;
}

/** The first pod unpacks the images and makes the bridge: what stays of that was there before the storm. */
export async function warmUp({ cri, cgroupParent }: SluiceDaemon): Promise<void> {
  await cri.pullImage({ image: imageSpec(IMAGE) });
  const sandboxConfig = podConfig('warm-up', { cgroupParent });
  const { podSandboxId } = await cri.runPodSandbox({ config: sandboxConfig });
  const config = containerConfig('warm-up', IMAGE, ['true']);
  const { containerId } = await cri.createContainer({ podSandboxId, config, sandboxConfig });
  await cri.startContainer({ containerId });
  await removePods(cri);
}

/** Ends the last round: a daemon that no point ends removes all pods, and the images. Gives what it cannot remove. */
export async function clearAway(
  daemon: SluiceDaemon,
  env: NodeJS.ProcessEnv,
  images: readonly string[],
): Promise<string[]> {
  await daemon.stop();
  Object.assign(env, killAt(undefined));
  await daemon.start();
  const failed: string[] = [];
  await removePods(daemon.cri).catch((error) => failed.push(`a pod could not be removed: ${words(error)}`));
  for (const reference of images) await daemon.cri.removeImage({ image: imageSpec(reference) });
  return failed;
}

/** Everything outside of the daemon (links, rules, mounts, processes, cgroups) and in its folders and tables. */
export async function leftOver(daemon: SluiceDaemon, before: string[]): Promise<string[]> {
  const left: string[] = [];
  await daemon.assertNothingLeft(20_000).catch((error: Error) => left.push(error.message));
  const fresh = () => inventory(daemon).filter((line) => !before.includes(line));
  await waitFor('files and rows as before', 10_000, () => fresh().length === 0 || undefined).catch(() =>
    left.push(...fresh()),
  );
  return left;
}
