/**
 * The situations in which the stages and the undos of the tables run: for each point one that leads to it. What a
 * situation asks for is noted in the ledger like everything else.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { imageSpec, mount } from '../rig/messages.ts';
import { pushImage } from '../rig/push.ts';
import { Rootfs } from '../rig/rootfs.ts';
import type { Failing, KillPoint } from './kill-points.ts';
import type { ContainerEntry, PodEntry } from './ledger.ts';
import type { Random } from './random.ts';
import {
  advance,
  create,
  launch,
  newContainer,
  newPod,
  removeContainer,
  removePod,
  type Scene,
  stopPod,
  TIMEOUT,
} from './requests.ts';
import { REFUSAL, REFUSED, words } from './setting.ts';

/** A shell, a program's data under a VOLUME, and an image to mount. */
const DECLARES = 'docker.io/storm/declares:1';
const VOLUME = 'docker.io/storm/volume:1';
/** Of one small layer, and of three that take a while. */
const SMALL = 'registry.k8s.io/k8s-staging-cri-tools/test-image-tags:1';
const LARGE = 'docker.io/bench/large:latest';
/** What situations pull and may leave on the node. */
export const PULLED = [SMALL, LARGE];
/** Of the program, when a volume lacks what belongs there. */
const EMPTY_VOLUME = 111;
/** Milliseconds after which a pull's caller leaves; longer at each further try. */
const PATIENCE_MS = [300, 600, 150, 1200, 2500, 5000];

export interface Situation {
  /** What {@link KillPoint.of} has to be: the pod's namespace and name, or the image. */
  of: string;
  failing?: Failing;
  /** Asks for everything; resolves when the daemon outlives it. */
  play: (scene: Scene) => Promise<void>;
}

export interface Choice {
  random: Random;
  handlers: readonly string[];
  /** Makes names unique. */
  number: number;
}

/** The situation that leads to a point. */
export function situationFor(point: KillPoint, choice: Choice): Situation {
  const { job, moment, during } = point;
  const undone = (moment === 'undoStarted' || moment === 'undoEnded') && during === 'call';
  if (job === 'PullImage') return { of: undone ? LARGE : SMALL, play: undone ? abandonedPull : pull };
  const name = `${undone && job === 'RunPodSandbox' ? REFUSED : 'point'}-${choice.number}`;
  const of = `rig/${name}`;
  const handler = handlerFor(point, choice);
  const begin = (scene: Scene) => newPod(scene, name, handler, 31100 + (choice.number % 200));
  if (!undone) return { of, play: (scene) => life(scene, begin(scene)) };
  if (job === 'RunPodSandbox') return { of, play: (scene) => refusedLaunch(scene, begin(scene)) };
  if (job === 'StartContainer') return { of, play: (scene) => failedStart(scene, begin(scene)) };
  // As on a full disk: the bundle's last file cannot be written.
  const failing = { job: 'CreateContainer', stage: 'bundle', of } as const;
  return { of, failing, play: (scene) => failedCreation(scene, begin(scene)) };
}

/** A pinned sandbox skips most stages of a launch; one with a pause process makes its shim and files there. */
function handlerFor({ job, stage, during }: KillPoint, { random, handlers }: Choice): string {
  const network = ['reserve', 'netns', 'network', 'ready'].includes(stage);
  const needsPause = job === 'RunPodSandbox' && !network && during !== 'later';
  const needsPinned = job === 'CreateContainer' && (stage === 'shim' || stage === 'files');
  const fit = handlers.filter((name) => (needsPause ? name === 'pause' : needsPinned ? name !== 'pause' : true));
  const chosen = fit[random.between(0, fit.length - 1)];
  assert.ok(chosen !== undefined, `no handler among "${handlers}" has ${job} ${stage}`);
  return chosen;
}

/** Pushes the situations' own images. */
export async function pushImages(registry: string): Promise<void> {
  const shell = new Rootfs().file('bin/busybox', readFileSync('/bin/busybox'), 0o755);
  for (const applet of ['sh', 'sleep']) shell.hardLink(`bin/${applet}`, 'bin/busybox');
  const data = new Rootfs().directory('data', 0o1770).file('data/file', 'copied', 0o640);
  const config = { Volumes: { '/data': {} }, Env: ['PATH=/bin'] };
  await pushImage(registry, DECLARES.replace('docker.io/', ''), { layers: [shell.done(), data.done()], config });
  const mounted = new Rootfs().directory('deep').file('deep/file', 'mounted');
  await pushImage(registry, VOLUME.replace('docker.io/', ''), { layers: [mounted.done()] });
}

export async function pullImages({ cri }: Scene): Promise<void> {
  for (const image of [DECLARES, VOLUME]) await cri.pullImage({ image: imageSpec(image) }, TIMEOUT);
}

/** A container with a VOLUME that is copied, an image volume and a path of the host. */
function container(scene: Scene, pod: PodEntry, name: string, endsAlone: boolean): ContainerEntry {
  const mounts = [
    mount({ containerPath: '/image', image: imageSpec(VOLUME), readonly: true }),
    mount({ containerPath: '/host', hostPath: scene.folder, readonly: true }),
  ];
  const first = `[ -s /data/file ] && [ -s /image/deep/file ] && [ -d /host/logs ] || exit ${EMPTY_VOLUME}; `;
  const program = { name, image: DECLARES, lines: 12, slow: true, exitCode: 7, endsAlone, first };
  return newContainer(pod, program, { mounts });
}

/** Everything that goes well: launch, two containers, one of which is stopped and removed, stop and removal. */
async function life(scene: Scene, pod: PodEntry): Promise<void> {
  await launch(scene, pod);
  const [stopped, ended] = [container(scene, pod, 'stopped', false), container(scene, pod, 'ended', true)];
  await create(scene, pod, stopped);
  while (stopped.phase !== 'ended') await advance(scene, pod, stopped);
  await create(scene, pod, ended);
  while (ended.phase !== 'ended') await advance(scene, pod, ended);
  await removeContainer(scene, pod, stopped);
  await stopPod(scene, pod);
  await removePod(scene, pod);
}

async function refusedLaunch(scene: Scene, pod: PodEntry): Promise<void> {
  await fails(launch(scene, pod), new RegExp(REFUSAL));
  scene.pods.delete(pod);
}

async function failedCreation(scene: Scene, pod: PodEntry): Promise<void> {
  await launch(scene, pod);
  await fails(create(scene, pod, container(scene, pod, 'c', true)), /lets this stage fail/);
  pod.containers.pop();
  await removePod(scene, pod);
}

async function failedStart(scene: Scene, pod: PodEntry): Promise<void> {
  await launch(scene, pod);
  const absent = container(scene, pod, 'c', true);
  absent.config.command = ['/no/such/program'];
  await create(scene, pod, absent);
  await fails(advance(scene, pod, absent), /no\/such\/program/);
  absent.spoilt = true;
  await removePod(scene, pod);
}

async function pull({ cri, counts }: Scene): Promise<void> {
  const image = imageSpec(SMALL);
  await cri.removeImage({ image }, TIMEOUT);
  await cri.pullImage({ image }, TIMEOUT);
  counts.pulls++;
  await cri.removeImage({ image }, TIMEOUT);
}

/** The caller leaves while layers are on their way, and nobody else wants them. */
async function abandonedPull({ cri }: Scene): Promise<void> {
  const image = imageSpec(LARGE);
  for (const timeoutMs of PATIENCE_MS) {
    await cri.removeImage({ image }, TIMEOUT);
    await cri.pullImage({ image }, { timeoutMs }).catch(() => {}); // it is the undo of this that matters
    await cri.version({}, TIMEOUT);
  }
}

/** The daemon refuses with these words; it goes on with any other error, such as that of its death. */
async function fails(request: Promise<void>, expected: RegExp): Promise<void> {
  let error: unknown;
  try {
    await request;
  } catch (caught) {
    error = caught;
  }
  if (error === undefined) throw new Error(`a request that must fail with ${expected} succeeded`);
  if (!expected.test(words(error))) throw error;
}
