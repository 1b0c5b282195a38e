/**
 * A daemon to break: a CNI plugin that misbehaves on demand, runtimes with broken shims and runcs, and the check that
 * after a failure the node is as it was before, down to files and rows, and that the next launch works.
 */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import type { PodSandboxConfig } from '../../proto/gen/cri.ts';
import { readBeside } from '../../src/workers/store/open.ts';
import { merge, type SluiceDaemon, type SluiceOptions, startSluice } from '../rig/daemon.ts';
import { cgroupsOf } from '../rig/leftovers.ts';
import { containerConfig, imageSpec, type PodOptions, podConfig } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { run, waitFor } from '../rig/proc.ts';

/** Tests here start daemons, which needs root and the programs that a pod needs. */
const POD_PROGRAMS = ['runc', 'containerd-shim-runc-v2', 'iptables'];
export const SKIP = skipUnlessRoot(...POD_PROGRAMS);
/** The same for tests that pull from a registry of their own. */
export const SKIP_WITH_REGISTRY = skipUnlessRoot(...POD_PROGRAMS, 'docker-registry');

/** What the plugin `fault` does; anything else means that it works. */
export type PluginMode =
  | 'works'
  | 'refuses'
  | 'crashes'
  | 'prints garbage'
  | 'prints nothing'
  | 'hangs'
  | 'takes a second'
  | 'takes a second and a half'
  | `reads ${string}`
  | 'refuses DEL'
  | 'refuses ADD and DEL';

/** The plugin stands between bridge and portmap, so that a failure of it finds an address and a link to give back. */
const PLUGIN = `#!${process.execPath}
import { readFileSync } from 'node:fs';
const conf = JSON.parse(readFileSync(0, 'utf8') || '{}');
const mode = readFileSync(MODE, 'utf8');
const command = process.env.CNI_COMMAND;
const refuse = () => {
  console.log(JSON.stringify({ cniVersion: '1.0.0', code: 111, msg: 'the rig says no', details: 'on purpose' }));
  process.exit(1);
};
if (command === 'VERSION') {
  console.log(JSON.stringify({ cniVersion: '1.0.0', supportedVersions: ['0.3.1', '0.4.0', '1.0.0'] }));
} else if (command === 'DEL') {
  if (mode === 'refuses DEL' || mode === 'refuses ADD and DEL') refuse();
} else if (command === 'ADD') {
  if (mode === 'refuses' || mode === 'refuses ADD and DEL') refuse();
  if (mode === 'crashes') {
    console.error('the rig fell over');
    process.exit(3);
  }
  if (mode.startsWith('reads ')) readFileSync(mode.slice(6));
  if (mode === 'hangs') await new Promise((resolve) => setTimeout(resolve, 600_000));
  if (mode === 'takes a second') await new Promise((resolve) => setTimeout(resolve, 1000));
  if (mode === 'takes a second and a half') await new Promise((resolve) => setTimeout(resolve, 1500));
  if (mode === 'prints garbage') console.log('Hello, I am no JSON {');
  else if (mode !== 'prints nothing') console.log(JSON.stringify(conf.prevResult));
}
`;

export interface Lab extends AsyncDisposable {
  daemon: SluiceDaemon;
  /** Private folder for scripts and sockets of the test. */
  folder: string;
  plugin: { path: string; mode: (mode: PluginMode) => void };
  /** Launches a pod that must come up. */
  launch: (name: string, options?: PodOptions & { handler?: string }) => Promise<string>;
  /** Launches a pod that must not; gives the error. */
  launchFails: (
    name: string,
    expected: { code?: number | number[]; words: RegExp },
    options?: PodOptions & { handler?: string; timeoutMs?: number },
  ) => Promise<void>;
  stopAndRemove: (id: string) => Promise<void>;
  /** The node is as it was when the lab was opened, and a launch works (and leaves nothing either). */
  assertSound: (graceMs?: number) => Promise<void>;
}

export interface LabOptions extends SluiceOptions {
  /** Handlers beside the default one: name → keys of [runtimes.NAME]. */
  runtimes?: (folder: string) => Record<string, Record<string, unknown>>;
  /** Images that tests use: pulled once, part of what is there before. */
  keepImages?: readonly string[];
}

export async function openLab(options: LabOptions = {}): Promise<Lab> {
  const { runtimes, prepare, keepImages = [], ...rest } = options;
  const daemon = await startSluice({
    ...rest,
    prepare: async (folder, network) => {
      const bin = join(folder, 'plugins');
      mkdirSync(bin);
      const path = join(bin, 'fault');
      const modeFile = join(folder, 'plugin-mode');
      writeFileSync(modeFile, 'works');
      writeFileSync(join(bin, 'package.json'), '{"type":"module"}');
      writeScript(path, PLUGIN.replace('MODE', JSON.stringify(modeFile)));
      const confFile = join(network.confDir, '10-rig.conflist');
      if (existsSync(confFile)) {
        const conf = JSON.parse(readFileSync(confFile, 'utf8')) as { plugins: object[] };
        conf.plugins.splice(1, 0, { type: 'fault' });
        writeFileSync(confFile, JSON.stringify(conf));
      }
      const own = {
        cni: { bin_dirs: [bin, ...network.binDirs], timeout_seconds: 2 },
        runtimes: runtimes?.(folder) ?? {},
      };
      return merge(own, (await prepare?.(folder, network)) ?? {});
    },
  });
  const { cri, folder } = daemon;
  const pluginPath = join(folder, 'plugins/fault');

  const config = (name: string, pod: PodOptions): PodSandboxConfig =>
    podConfig(name, { cgroupParent: daemon.cgroupParent, ...pod });
  const launch: Lab['launch'] = async (name, { handler, ...pod } = {}) => {
    const request = { config: config(name, pod), runtimeHandler: handler ?? '' };
    return (await cri.runPodSandbox(request, { timeoutMs: 60_000 })).podSandboxId;
  };
  const stopAndRemove: Lab['stopAndRemove'] = async (podSandboxId) => {
    await cri.stopPodSandbox({ podSandboxId });
    await cri.removePodSandbox({ podSandboxId });
  };
  const launchFails: Lab['launchFails'] = async (name, { code, words }, { handler, timeoutMs, ...pod } = {}) => {
    const request = { config: config(name, pod), runtimeHandler: handler ?? '' };
    await assert.rejects(cri.runPodSandbox(request, { timeoutMs: timeoutMs ?? 60_000 }), (error: Error) => {
      const { code: got, details } = error as Error & { code?: number; details?: string };
      assert.match(details ?? error.message, words);
      if (code !== undefined) {
        assert.ok([code].flat().includes(got ?? -1), `status ${got}, expected ${code}: ${details}`);
      }
      return true;
    });
  };

  // The first launch unpacks the image and makes the bridge: what stays of that is part of the baseline.
  for (const image of keepImages) await cri.pullImage({ image: imageSpec(image) });
  const first = await launch('first');
  for (const image of keepImages) {
    const config = containerConfig('first', image, ['true']);
    const sandboxConfig = podConfig('first', { cgroupParent: daemon.cgroupParent });
    const { containerId } = await cri.createContainer({ podSandboxId: first, config, sandboxConfig });
    await cri.startContainer({ containerId });
  }
  await stopAndRemove(first);
  await daemon.assertNothingLeft();
  await waitFor('the copies of rows to follow the store', 5000, () => copiesOfPods(daemon).length === 0 || undefined);
  let baseline = expected(daemon);

  const assertSound = async (graceMs = 5000) => {
    await daemon.assertNothingLeft(graceMs).catch(async (error: unknown) => {
      // Lest every test after this one fails for the same reason.
      await removeCgroups(daemon.cgroupParent);
      baseline = expected(daemon);
      throw error;
    });
    assert.deepEqual((await cri.listPodSandbox()).items, []);
    await waitFor('files and rows as before', graceMs, () => equal(inventory(daemon), baseline)).catch(() => {
      const before = baseline;
      baseline = expected(daemon); // the next test is judged by what it leaves itself
      assert.deepEqual(inventory(daemon), before);
    });
    const id = await launch('after');
    await stopAndRemove(id);
    await daemon.assertNothingLeft();
  };
  return {
    daemon,
    folder,
    plugin: { path: pluginPath, mode: (mode) => writeFileSync(join(folder, 'plugin-mode'), mode) },
    launch,
    launchFails,
    stopAndRemove,
    assertSound,
    [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
  };
}

/**
 * The pause process of a pod, from the verbose PodSandboxStatus. Never 0, which kill(2) takes for the caller's process
 * group.
 */
export function pausePid(info: Record<string, string>): number {
  const { pid } = JSON.parse(info.info ?? '{}') as { pid?: number };
  assert.ok(pid, 'the pod has a pause process');
  return pid;
}

/**
 * What may stay of what is there now: all but what threads for layers practise with, which they are about to remove.
 */
function expected(daemon: SluiceDaemon): string[] {
  return inventory(daemon).filter((path) => !path.startsWith('state/practise-'));
}

const equal = (a: string[], b: string[]): true | undefined => (a.join('\n') === b.join('\n') ? true : undefined);

/** Copies of the rows of pods and containers: they are removed a moment after the rows. */
function copiesOfPods({ state }: SluiceDaemon): string[] {
  return ['sandboxes', 'containers'].flatMap((table) => {
    const folder = join(state, 'rows', table);
    return existsSync(folder) ? readdirSync(folder) : [];
  });
}

/**
 * Every file and folder of the daemon, and the number of rows of each table. Contents of images are named by their
 * digest.
 */
export function inventory(daemon: SluiceDaemon): string[] {
  const found: string[] = [];
  for (const top of [daemon.root, daemon.state]) {
    const walk = (dir: string) => {
      for (const name of withoutSpare(readdirSync(dir))) {
        const path = join(dir, name);
        if (/\.(db|sqlite)(-wal|-shm)?$/.test(name)) {
          if (!name.includes('-')) found.push(...rows(path));
          continue;
        }
        if (name.endsWith('.ballast')) continue; // given up on a full disk, made again later
        if (name === 'keeper') continue; // the keeper of FIFOs: it ends a moment after the last of them
        const shown = `${top === daemon.root ? 'root' : 'state'}/${relative(top, path)}`;
        const stat = lstatSync(path);
        // Inside of unpacked layers there are thousands of files that only an unpack changes.
        if (stat.isDirectory() && !/\/(fs|diff)$/.test(path)) walk(path);
        // The folder of the pods' folders comes with the first pod that has files, and stays.
        if (/^(?:root|state)\/sandboxes$/.test(shown)) continue;
        found.push(stat.isDirectory() ? `${shown}/` : shown);
      }
    };
    if (existsSync(top)) walk(top);
  }
  return found.sort();
}

function rows(path: string): string[] {
  return readBeside(path, (db) => {
    // The table `about` is the store's own: who wrote it, and when its copies were complete.
    const query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'about' ORDER BY name";
    const tables = db.prepare(query).all() as { name: string }[];
    return tables.map(({ name }) => {
      const { n } = db.prepare(`SELECT count(*) AS n FROM "${name}"`).get() as { n: number };
      return `table ${name}: ${n} rows`;
    });
  });
}

async function removeCgroups(parent: string): Promise<void> {
  for (const group of cgroupsOf(basename(parent))) {
    for (const name of readdirSync(group)) await run('rmdir', [join(group, name)], { check: false });
  }
}

export function writeScript(path: string, text: string): string {
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}

/**
 * One pair of FIFOs is open for the next ExecSync (Stdio.openCapture): the first pair of the folder counts for that.
 */
function withoutSpare(names: string[]): string[] {
  const spare = names.find((name) => /^[0-9a-f]{64}-stdout$/.test(name))?.slice(0, 64);
  return spare === undefined ? names : names.filter((name) => name !== `${spare}-stdout` && name !== `${spare}-stderr`);
}
