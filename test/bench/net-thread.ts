/**
 * What a pinned pod costs the net thread, call by call, without the rest of the daemon: the namespaces, ADD and DEL of
 * a bridge with host-local, masquerading and portmap, all in this process.
 *
 *   node test/bench/net-thread.ts [--pods 200] [--present 0,500]
 *
 * `--present`: how many pods there are already, whose cost for the next ones it shows. Runs in network and mount
 * namespaces of its own, which end with it; addresses and records are on the disk below /tmp, as on a node.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setLink } from '../../src/sys/link.ts';
import { mount } from '../../src/sys/mount.ts';
import type { Release } from '../../src/workers/net/release.ts';
import type { CniCall, NetworkConf } from '../../src/workers/net/types.ts';
import { handlers } from '../../src/workers/net.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { machine, otherWork } from './machine.ts';
import { median } from './statistics.ts';

const { values: options } = parseArgs({
  options: {
    pods: { type: 'string', default: '200' },
    present: { type: 'string', default: '0,500' },
    folder: { type: 'string' },
  },
});

/** Pods before the first that is measured: code is warm then. */
const WARM = 100;

class Node {
  readonly #disk: string;
  readonly #state: string;
  readonly #network: NetworkConf;
  readonly #times = new Map<string, number[]>();

  constructor(disk: string) {
    this.#disk = disk;
    this.#state = join(disk, 'state');
    mkdirSync(this.#state);
    mount({ source: 'state', target: this.#state, type: 'tmpfs' });
    const ipam = {
      type: 'host-local',
      dataDir: join(disk, 'ipam'),
      ranges: [[{ subnet: '10.77.0.0/20' }]],
      routes: [{ dst: '0.0.0.0/0' }],
    };
    this.#network = {
      name: 'bench',
      cniVersion: '1.0.0',
      source: 'net-thread.ts',
      plugins: [
        { type: 'bridge', bridge: 'bench0', isGateway: true, ipMasq: true, ipam },
        { type: 'portmap', capabilities: { portMappings: true } },
      ],
    };
  }

  async launch(count: number): Promise<string[]> {
    const ids = Array.from({ length: count }, () => randomBytes(32).toString('hex'));
    for (const id of ids) {
      const [net, ipc, uts] = this.#paths(id);
      const paths = { net, ipc, uts };
      const hostname = id.slice(0, 12);
      await this.#timed('pinNamespaces', handlers.pinNamespaces, { paths, loopback: true, hostname, sysctls: {} });
      await this.#timed('cniAdd', handlers.cniAdd, this.#call(id));
    }
    return ids;
  }

  async remove(ids: string[]): Promise<void> {
    let releases: Release[] = [];
    for (const id of ids) {
      const call = this.#call(id);
      const { deferred } = await this.#timed('cniDel', handlers.cniDel, { ...call, lazy: true });
      await this.#timed('unpinNamespaces', handlers.unpinNamespaces, { paths: this.#paths(id) });
      if (deferred) releases.push({ call, deferred, force: false });
    }
    while (releases.length > 0) {
      const { left } = await handlers.cniRelease({ releases });
      releases = releases.filter((_, index) => left.includes(index));
      if (releases.length > 0) await sleep(20);
    }
  }

  /** Medians in milliseconds since the last call of this. */
  medians(): string {
    const texts = [...this.#times].map(([name, times]) => `${name} ${median(times).toFixed(2)} ms`);
    this.#times.clear();
    return texts.join(', ');
  }

  #paths(id: string): [net: string, ipc: string, uts: string] {
    const at = (kind: string) => join(this.#state, 'ns', `${id}.${kind}`);
    return [at('net'), at('ipc'), at('uts')];
  }

  #call(id: string): CniCall {
    const attachment = {
      network: this.#network,
      containerId: id,
      netns: this.#paths(id)[0],
      ifName: 'eth0',
      args: [['IgnoreUnknown', '1']] as [string, string][],
      capabilityArgs: {},
    };
    return { attachment, binDirs: [], cacheDir: join(this.#disk, 'cache'), timeoutMs: 60_000, inProcess: true };
  }

  async #timed<I, O>(name: string, work: (input: I) => Promise<O>, input: I): Promise<O> {
    const began = performance.now();
    const answer = await work(input);
    const times = this.#times.get(name) ?? [];
    times.push(performance.now() - began);
    this.#times.set(name, times);
    return answer;
  }
}

/** In the namespaces of its own. */
async function measure(folder: string): Promise<void> {
  setLink('lo', true);
  const node = new Node(folder);
  const count = Number(options.pods);
  let present: string[] = [];
  await node.remove(await node.launch(WARM));
  for (const wanted of options.present.split(',').map(Number)) {
    present = [...present, ...(await node.launch(Math.max(0, wanted - present.length)))];
    node.medians();
    const before = process.cpuUsage();
    const ids = await node.launch(count);
    const { user, system } = process.cpuUsage(before);
    await node.remove(ids);
    const cpu = (time: number) => (time / 1000 / count).toFixed(2);
    console.log(`${present.length} pods present: launch ${cpu(user)} ms user, ${cpu(system)} ms system`);
    console.log(`  ${node.medians()}`);
  }
  await node.remove(present);
}

if (process.getuid?.() !== 0) throw new Error('needs root: it makes namespaces');
if (options.folder !== undefined) await measure(options.folder);
else {
  const folder = privateFolder('sluice-net-thread');
  try {
    console.log(`${machine()}\nother work: ${await otherWork()}`);
    const own = [process.execPath, fileURLToPath(import.meta.url), '--folder', folder];
    const args = [...own, '--pods', options.pods, '--present', options.present];
    const { stdout } = await run(program('unshare'), ['--mount', '--net', ...args], { timeoutMs: 600_000 });
    process.stdout.write(stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
