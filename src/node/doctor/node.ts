/** What the configuration names on this machine: runtimes, shims, plugins, folders; and who else is there. */
import { existsSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { explain } from '../../errors.ts';
import { run } from '../../sys/spawn.ts';
import { hostFiles } from '../../workers/host-paths/read-file.ts';
import { findTool } from '../../workers/net/programs.ts';
import { commandOf } from '../../workers/programs.ts';
import { environment, findProgram } from '../../workers/shim/program.ts';
import type { Config } from '../config/config.ts';
import { loadFolder } from '../network/conf.ts';
import { type Finding, finding, type MachineFiles } from './finding.ts';

const VERSION_MS = 30_000;
const GIB = 2 ** 30;
const LEAST_BYTES = 5 * GIB;
const LEAST_INODES = 100_000;

/** File systems on which overlayfs cannot have its writable layer, by the number that statfs(2) gives. */
const NO_UPPER: Record<number, string> = {
  2035054128: 'overlayfs',
  26985: 'NFS',
  1702057286: 'FUSE',
  19780: 'FAT',
  40864: 'proc',
};
const TMPFS = 0x01021994;

/** Sockets of other runtimes. */
const NEIGHBOURS: Record<string, string> = {
  '/run/containerd/containerd.sock': 'containerd',
  '/var/run/crio/crio.sock': 'CRI-O',
  '/var/run/docker.sock': 'Docker',
  '/run/cri-dockerd.sock': 'cri-dockerd',
};

/** Programs that plugins of the reference set call. */
const TOOLS: Record<string, string> = {
  iptables: 'masquerading and host ports; plugins fail without it unless they use nftables',
  modprobe: 'modules are not loaded on demand',
};

export async function nodeFindings(config: Config, files: MachineFiles): Promise<Finding[]> {
  return [
    ...(await runtimeFindings(config)),
    ...(await networkFindings(config)),
    ...folderFindings(config),
    ...neighbourFindings(config, files),
  ];
}

async function runtimeFindings({ runtimes, default_runtime: preferred }: Config): Promise<Finding[]> {
  const asked = Object.entries(runtimes).flatMap(([name, { binary, shim }]) => [
    { what: `runtime ${name}`, binary, flag: '--version', bad: name === preferred },
    { what: `shim of ${name}`, binary: shim, flag: '-v', bad: name === preferred },
  ]);
  return Promise.all(
    asked.map(async ({ what, binary, flag, bad }): Promise<Finding> => {
      try {
        const program = await findProgram(binary, what);
        const { path } = program;
        const { stdout, code, signal, timedOut } = await run({
          ...commandOf(program, [flag]),
          env: environment(),
          timeoutMs: VERSION_MS,
        });
        const version =
          stdout
            .toString()
            .replace(/^.*:\n/, '')
            .trim()
            .split('\n', 1)[0] ?? '';
        const seconds = VERSION_MS / 1000;
        const advice = timedOut
          ? `${path} ${flag} has not answered within ${seconds} s: the machine is busy, or the file’s disk hangs`
          : `${path} ${flag} ended with ${code === null ? `signal ${signal}` : `status ${code}`}: install it again`;
        return finding('runtimes', what, code === 0, {
          found: code === 0 ? `${path} (${version.trim()})` : path,
          advice,
          otherwise: bad ? 'bad' : 'poor',
        });
      } catch (error) {
        const advice = 'install it, or name its path in [runtimes]';
        return { area: 'runtimes', what, state: bad ? 'bad' : 'poor', found: explain(error), advice };
      }
    }),
  );
}

async function networkFindings({ cni }: Config): Promise<Finding[]> {
  const { network, files, problems } = await loadFolder(cni.conf_dir, hostFiles);
  const builtin = files === 0 && cni.builtin_subnet !== '';
  const conf = finding('network', 'configuration', network !== undefined || builtin, {
    found: network
      ? `${network.name} (${network.source})`
      : builtin
        ? 'none: the built-in bridge'
        : problems.join('; ') || 'none',
    advice: `a conflist in ${cni.conf_dir}, from the cluster’s network add-on`,
    otherwise: 'bad',
  });
  const needed = network
    ? network.plugins.flatMap(({ type, ipam }) => [type, ipamType(ipam)])
    : ['bridge', 'host-local'];
  const types = [...new Set(needed.filter((type) => type !== ''))];
  const found = await Promise.all(types.map((type) => findTool(type, cni.bin_dirs)));
  const missing = types.filter((_, index) => !found[index]);
  const plugins = finding('network', 'plugins', missing.length === 0, {
    found: missing.length === 0 ? types.join(', ') : `without ${missing.join(', ')}`,
    advice: `install them into one of ${cni.bin_dirs.join(', ')}`,
    otherwise: 'bad',
  });
  const tools = await Promise.all(
    Object.entries(TOOLS).map(async ([name, advice]) => {
      const path = (await findTool(name))?.path;
      return finding('network', name, path !== undefined, { found: path ?? 'not in PATH', advice });
    }),
  );
  return [conf, plugins, ...tools];
}

const ipamType = (ipam: unknown): string => (ipam as { type?: string } | undefined)?.type ?? '';

function folderFindings({ root, state, images }: Config): Finding[] {
  const rootPlace = nearest(root);
  const { type, bavail, bsize, ffree, files } = statfsSync(rootPlace);
  const bytes = bavail * bsize;
  const needsOverlays = images.snapshotter === 'overlayfs';
  const bad = needsOverlays ? NO_UPPER[type] : undefined;
  const onTmpfs = statfsSync(nearest(state)).type === TMPFS;
  return [
    finding('disk', `root ${root}`, bad === undefined, {
      found: bad !== undefined ? `on ${bad}` : needsOverlays ? 'takes overlayfs' : 'needs no overlayfs',
      advice:
        'a local file system (ext4, xfs, btrfs), or images.snapshotter = "native": overlayfs cannot write on this one',
      otherwise: 'bad',
    }),
    finding('disk', 'free', bytes >= LEAST_BYTES && (files === 0 || ffree >= LEAST_INODES), {
      found: `${(bytes / GIB).toFixed(1)} GiB, ${files === 0 ? 'any number of' : ffree} inodes`,
      advice: 'images take room here; the kubelet evicts pods below 10 %',
    }),
    finding('disk', `state ${state}`, onTmpfs, {
      found: onTmpfs ? 'on a tmpfs' : 'on a disk',
      advice: 'a tmpfs (/run) is faster, and empty after a reboot, as the pods are',
    }),
  ];
}

/** The folder itself, or the nearest one above that exists. */
function nearest(folder: string): string {
  return existsSync(folder) ? folder : nearest(dirname(folder));
}

function neighbourFindings({ cni, socket }: Config, files: MachineFiles): Finding[] {
  const there = Object.entries(NEIGHBOURS).filter(([path]) => files.exists(path) && path !== socket);
  return [
    finding('neighbours', 'other runtimes', there.length === 0, {
      found: there.length === 0 ? 'none' : there.map(([path, name]) => `${name} (${path})`).join(', '),
      advice: `the kubelet’s containerRuntimeEndpoint chooses one; they share ${cni.cache_dir} and ${cni.netns_dir}, by ids`,
    }),
  ];
}
