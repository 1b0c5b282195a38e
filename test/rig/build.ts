/**
 * The Go programs that tests and benchmarks compare with, built once into .cache/bin from the pinned modules under go/.
 *
 *   node test/rig/build.ts [NAME...]      names as in PROGRAMS; all but the large ones when none is given
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { BIN, findProgram, ROOT } from './paths.ts';
import { run } from './proc.ts';

interface GoProgram {
  /** Folder under go/ whose go.mod pins it. */
  module: string;
  /** Its path below .cache/bin, where that is not its name here: a shim is recognised by its file's name. */
  file?: string;
  package: string;
  /** How a build of the right version is recognised: Go writes this into each binary. */
  mark: string;
  cgo?: boolean;
  /** Variables that its own build sets: the version that it says it is. */
  variables?: Record<string, string>;
  /** Takes minutes, so it is made only by its name. */
  large?: boolean;
  tags?: string;
  /** A suite of Go tests (`go test -c`): its package has nothing else to build. */
  test?: boolean;
}

const CRI_TOOLS = 'sigs.k8s.io/cri-tools';
const CONTAINERD = 'github.com/containerd/containerd/v2';
const CRI_TOOLS_MARK = `${CRI_TOOLS}\tv1.36.0\t`;
const CONTAINERD_MARK = `${CONTAINERD}\tv2.3.4\t`;
const CONTAINERD_2_4_MARK = `${CONTAINERD}\tv2.4.2\t`;
const KUBERNETES = 'k8s.io/kubernetes';
const kubernetes = (name: string) => ({
  module: 'kubernetes',
  package: `${KUBERNETES}/cmd/${name}`,
  mark: `${KUBERNETES}\tv1.36.2\t`,
  variables: {
    'k8s.io/component-base/version.gitVersion': 'v1.36.2',
    'k8s.io/component-base/version.gitMajor': '1',
    'k8s.io/component-base/version.gitMinor': '36',
    'k8s.io/component-base/version.gitTreeState': 'clean',
  },
  large: true,
});

export const PROGRAMS = {
  crictl: { module: 'cri-tools', package: `${CRI_TOOLS}/cmd/crictl`, mark: CRI_TOOLS_MARK },
  'crictl-1.37': { module: 'cri-tools-1.37', package: `${CRI_TOOLS}/cmd/crictl`, mark: `${CRI_TOOLS}\tv1.37.0\t` },
  critest: { module: 'cri-tools', package: `${CRI_TOOLS}/cmd/critest`, mark: CRI_TOOLS_MARK, test: true },
  containerd: { module: 'containerd', package: `${CONTAINERD}/cmd/containerd`, mark: CONTAINERD_MARK },
  'containerd-shim-runc-v2': {
    module: 'containerd',
    package: `${CONTAINERD}/cmd/containerd-shim-runc-v2`,
    mark: CONTAINERD_MARK,
  },
  ctr: { module: 'containerd', package: `${CONTAINERD}/cmd/ctr`, mark: CONTAINERD_MARK },
  'containerd-2.4': {
    module: 'containerd-2.4',
    package: `${CONTAINERD}/cmd/containerd`,
    mark: CONTAINERD_2_4_MARK,
  },
  'containerd-shim-runc-v2-2.4': {
    module: 'containerd-2.4',
    package: `${CONTAINERD}/cmd/containerd-shim-runc-v2`,
    mark: CONTAINERD_2_4_MARK,
    file: '2.4/containerd-shim-runc-v2',
  },
  'runc-1.4': {
    module: 'runc',
    package: 'github.com/opencontainers/runc',
    mark: 'github.com/opencontainers/runc\tv1.4.0\t',
    cgo: true,
    tags: 'seccomp',
  },
  'distribution-3': {
    module: 'distribution',
    package: 'github.com/distribution/distribution/v3/cmd/registry',
    mark: 'github.com/distribution/distribution/v3\tv3.1.2\t',
  },
  'crane-registry': {
    module: 'go-containerregistry',
    package: 'github.com/google/go-containerregistry/cmd/registry',
    mark: 'github.com/google/go-containerregistry\tv0.22.1\t',
  },
  'stargz-snapshotter': {
    module: 'stargz',
    package: '.',
    mark: 'github.com/containerd/stargz-snapshotter\tv0.19.1\t',
  },
  kubelet: kubernetes('kubelet'),
  kubeadm: kubernetes('kubeadm'),
  kubectl: kubernetes('kubectl'),
  'kube-apiserver': kubernetes('kube-apiserver'),
  'kube-controller-manager': kubernetes('kube-controller-manager'),
  'kube-scheduler': kubernetes('kube-scheduler'),
  dockerd: {
    module: 'moby',
    package: 'github.com/moby/moby/v2/cmd/dockerd',
    mark: 'github.com/moby/moby/v2\tv2.0.0-beta.24\t',
    tags: 'exclude_graphdriver_btrfs,exclude_graphdriver_zfs',
    large: true,
  },
  etcd: {
    module: 'etcd',
    package: 'go.etcd.io/etcd/server/v3',
    mark: 'go.etcd.io/etcd/server/v3\tv3.6.8\t',
    large: true,
  },
} as const satisfies Record<string, GoProgram>;

export type ProgramName = keyof typeof PROGRAMS;

/** The containerds to compare with: a daemon, and the shim that belongs to it, which both sides of a comparison use. */
export const CONTAINERDS = {
  '2.3.4': { daemon: 'containerd', shim: 'containerd-shim-runc-v2' },
  '2.4.2': { daemon: 'containerd-2.4', shim: 'containerd-shim-runc-v2-2.4' },
} as const satisfies Record<string, { daemon: ProgramName; shim: ProgramName }>;

type ContainerdVersion = keyof typeof CONTAINERDS;
const NEWEST: ContainerdVersion = '2.4.2';

/**
 * Paths of a containerd and its shim: of one of {@link CONTAINERDS}, built where there is Go; of the one in PATH for
 * "system"; for "none" the newest one's shim alone. What this machine does not have is left out.
 */
export async function containerdPrograms(version: string): Promise<{ containerd?: string; shim?: string }> {
  if (version === 'system')
    return { containerd: findProgram('containerd'), shim: findProgram('containerd-shim-runc-v2') };
  const known = Object.keys(CONTAINERDS) as ContainerdVersion[];
  const found = version === 'none' ? NEWEST : known.find((one) => one === version);
  if (!found) throw new Error(`there is no containerd ${version} here, but ${known.join(', ')} and system`);
  const { daemon, shim } = CONTAINERDS[found];
  const containerd = version === 'none' ? undefined : await builtOrSystem(daemon);
  return { containerd, shim: await builtOrSystem(shim) };
}

/** Why something cannot be had on this machine; tests skip with the message. */
export class Unavailable extends Error {}

/** The path of a built program, building it first when need be. Throws {@link Unavailable} where that is impossible. */
export async function built(name: ProgramName): Promise<string> {
  const spec: GoProgram = PROGRAMS[name];
  const target = join(BIN, spec.file ?? name);
  if (existsSync(target) && readFileSync(target).includes(spec.mark)) return target;
  const go = findProgram('go');
  if (!go) throw new Unavailable(`${name} is built from Go modules, and there is no Go here (https://go.dev/dl)`);
  mkdirSync(dirname(target), { recursive: true });
  const fresh = `${target}.${process.pid}`;
  const variables = Object.entries(spec.variables ?? {})
    .map(([name, value]) => ` -X ${name}=${value}`)
    .join('');
  console.error(`rig: building ${name} (once; a minute or two)`);
  try {
    await run(
      go,
      [
        ...(spec.test ? ['test', '-c'] : ['build']),
        ...['-trimpath', `-ldflags=-s -w${variables}`, ...(spec.tags ? ['-tags', spec.tags] : [])],
        ...['-o', fresh, spec.package],
      ],
      {
        cwd: join(ROOT, 'test/rig/go', spec.module),
        env: { ...process.env, CGO_ENABLED: spec.cgo ? '1' : '0', GOFLAGS: '-mod=readonly', GOWORK: 'off' },
        timeoutMs: 20 * 60_000,
      },
    );
    renameSync(fresh, target);
  } catch (error) {
    rmSync(fresh, { force: true });
    const words = error instanceof Error ? error.message : String(error);
    if (
      /dial tcp|no such host|connection refused|i\/o timeout|proxyconnect|Forbidden|toolchain not available/i.test(
        words,
      )
    ) {
      throw new Unavailable(`${name} cannot be built: the Go module proxy is not reachable`, { cause: error });
    }
    throw error;
  }
  return target;
}

/** The built program, or Debian's one where Go is absent; `undefined` when there is neither. */
export async function builtOrSystem(name: ProgramName): Promise<string | undefined> {
  try {
    return await built(name);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    console.error(`rig: ${error.message}; taking the system's ${name}`);
    return findProgram(basename(PROGRAMS[name].package));
  }
}

if (import.meta.main) {
  const names = process.argv.slice(2);
  const known = Object.keys(PROGRAMS) as ProgramName[];
  for (const name of names) if (!known.includes(name as ProgramName)) throw new Error(`no such program: ${name}`);
  for (const name of known) {
    const spec: GoProgram = PROGRAMS[name];
    if (names.length > 0 ? !names.includes(name) : spec.large) continue;
    try {
      console.log(await built(name));
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      console.log(`skipped: ${error.message}`);
    }
  }
}
