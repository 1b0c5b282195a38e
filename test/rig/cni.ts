/** A CNI network for tests: bridge, host-local and portmap with names that no other network of the machine has. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { daemonId } from '../../src/node/network/daemon-id.ts';
import { FAMILY, listElements, openNftables } from '../../src/sys/nftables.ts';
import { removeTables, tableName } from '../../src/workers/net/in-process/firewall.ts';
import { closeUplink } from '../../src/workers/net/uplink.ts';
import { cniBinDirs } from './paths.ts';
import { run } from './proc.ts';

export interface RigNetwork extends AsyncDisposable {
  name: string;
  bridge: string;
  /** For example 10.200.4.0/22, which has addresses for a thousand pods. */
  subnet: string;
  confDir: string;
  binDirs: string[];
  /** Where host-local keeps one file per address. */
  dataDir: string;
  cacheDir: string;
  /** Addresses in use, and what each file says of its owner. */
  addresses(): string[];
  /** Ports on the bridge: the host ends of pods' veths. */
  veths(): Promise<string[]>;
  /** Lines of iptables-save that name the network (ipMasq writes one chain per pod). */
  rules(): Promise<string[]>;
  /** Removes the bridge, and rules and veths that a failed test left. */
  remove(): Promise<void>;
}

export interface RigNetworkOptions {
  /** Distinguishes the networks of one process. */
  index?: number;
  ipMasq?: boolean;
  /** False: `ipv6LinkLocal` in the bridge's entry, which only Sluice knows. */
  linkLocal?: boolean;
  /** Write no configuration: describe the built-in network of a daemon with this root folder. */
  builtinOf?: string;
}

/** Writes a conflist below `folder`, or, with `builtinOf`, only describes the built-in network. */
export async function rigNetwork(folder: string, options: RigNetworkOptions = {}): Promise<RigNetwork> {
  const { index = 0, builtinOf } = options;
  // A link name may have 15 characters. The pid makes it unique among live rigs.
  const id = `${process.pid.toString(36)}${index.toString(36)}`;
  const bridge = builtinOf ? `sluice${daemonId(builtinOf)}` : `rig${id}`.slice(0, 15);
  const name = builtinOf ? bridge : `rig-${id}`;
  const subnet = await freeSubnet(process.pid + index * 7919);
  const confDir = join(folder, 'net.d');
  const dataDir = builtinOf ? join(builtinOf, 'cni') : join(folder, 'ipam');
  const cacheDir = join(folder, 'cni-cache');
  for (const dir of [confDir, cacheDir]) mkdirSync(dir, { recursive: true });
  const conf = {
    cniVersion: '1.0.0',
    name,
    plugins: [
      {
        type: 'bridge',
        bridge,
        isGateway: true,
        ipMasq: options.ipMasq ?? true,
        ...(options.linkLocal === false ? { ipv6LinkLocal: false } : {}),
        ipam: { type: 'host-local', dataDir, ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
  if (!builtinOf) writeFileSync(join(confDir, '10-rig.conflist'), `${JSON.stringify(conf, undefined, 2)}\n`);

  const veths = async () => {
    const { stdout } = await run('ip', ['-o', 'link', 'show', 'master', bridge], { check: false });
    return [...stdout.matchAll(/^\d+: ([^:@]+)/gm)].map((match) => match[1] ?? '');
  };
  const [first = '', second = '', third = ''] = subnet.split('.');
  const thirds = [0, 1, 2, 3].map((n) => Number(third) + n).join('|');
  const inSubnet = new RegExp(`\\b${first}\\.${second}\\.(${thirds})\\.\\d+`);
  const allRules = async () => {
    const { stdout } = await run('iptables-save', [], { check: false });
    return stdout.split('\n').filter((line) => line.includes(name) || inSubnet.test(line));
  };
  // The built-in network has rules with its name, which also exist without pods.
  const rules = async () => [
    ...(await allRules()).filter((rule) => !(builtinOf && rule.includes(`"${bridge}: `))),
    ...ownElements(name),
  ];
  const remove = async () => {
    if (builtinOf) await closeUplink(bridge);
    for (const veth of await veths()) await run('ip', ['link', 'del', veth], { check: false });
    await run('ip', ['link', 'del', bridge], { check: false });
    removeTables(name);
    const chains = new Set<string>();
    for (const rule of await allRules()) {
      if (!rule.startsWith('-A ')) continue;
      const words = [...rule.matchAll(/"((?:\\.|[^"\\])*)"|(\S+)/g)].map((m) =>
        (m[1] ?? m[2] ?? '').replaceAll('\\"', '"'),
      );
      words[0] = '-D';
      await run('iptables', ['-w', '10', '-t', 'nat', ...words], { check: false });
      for (const word of words) if (word.startsWith('CNI-') && !word.startsWith('CNI-HOSTPORT')) chains.add(word);
    }
    for (const chain of chains) {
      await run('iptables', ['-w', '10', '-t', 'nat', '-F', chain], { check: false });
      await run('iptables', ['-w', '10', '-t', 'nat', '-X', chain], { check: false });
    }
  };
  return {
    name,
    bridge,
    subnet,
    confDir,
    binDirs: cniBinDirs(),
    dataDir,
    cacheDir,
    addresses: () =>
      (existsSync(dataDir) ? readdirSync(dataDir, { recursive: true, encoding: 'utf8' }) : [])
        .filter((file) => /(\d+\.){3}\d+$/.test(file))
        .map((file) => `${file} of "${ownerIn(join(dataDir, file))}"`),
    veths,
    rules,
    remove,
    [Symbol.asyncDispose]: remove,
  };
}

/** What pods have in the network's tables of nf_tables, where their plugins run without processes. */
function ownElements(network: string): string[] {
  using socket = openNftables();
  return [FAMILY.IPV4, FAMILY.IPV6].flatMap((family) =>
    ['pods', 'ports', 'ports_at'].flatMap((set) =>
      listElements(socket, { family, table: tableName(network), set }).map(({ comment }) => `${set} ${comment}`),
    ),
  );
}

/** A /22 inside 10.128.0.0/9 to which this machine has no route. */
async function freeSubnet(seed: number): Promise<string> {
  const { stdout } = await run('ip', ['-4', '-o', 'route', 'show', 'table', 'all']);
  for (let n = 0; n < 8192; n++) {
    const slot = (seed * 31 + n) % 8192;
    const prefix = `10.${128 + (slot >> 6)}.${(slot & 63) * 4}`;
    if (!stdout.includes(`${prefix}.`)) return `${prefix}.0/22`;
  }
  throw new Error('every subnet of 10.128.0.0/9 is taken');
}

/** The container and interface that host-local has written into an address file; what it is when the file is gone. */
function ownerIn(file: string): string {
  try {
    return readFileSync(file, 'utf8').replace('\r\n', ' ');
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
