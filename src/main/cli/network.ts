import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { PodSandboxState } from '../../../proto/gen/cri.ts';
import { explain } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';
import { builtinBridge } from '../../node/network/builtin.ts';
import { daemonId, isOwnNetns } from '../../node/network/daemon-id.ts';
import { readRows } from '../../node/store/read-rows.ts';
import { cniCheck, isChecked } from '../../workers/net/check.ts';
import { closeUplink } from '../../workers/net/uplink.ts';
import { LOCK_FILE } from '../folders.ts';
import { lockFile } from '../lock-file.ts';
import { criClient } from './client.ts';
import { type Command, EXIT, optionText, PEER_OPTIONS, printJson, printTable } from './command.ts';
import { fullName } from './pods.ts';

/**
 * Of `cniconfig` in the verbose Status, which has containerd's shape (src/main/cri/cni-info.ts): the part that is
 * shown.
 */
interface CniConfig {
  Networks: { IFName: string; Config: { Name: string; Source: string; Plugins: { Network: { type: string } }[] } }[];
}

interface CurrentNetwork {
  name: string;
  source: string;
  plugins: string[];
}

/** The pods' network; undefined while there is none. */
function currentNetwork(cniconfig: string | undefined): CurrentNetwork | undefined {
  const { Networks } = JSON.parse(cniconfig ?? '{"Networks":[]}') as CniConfig;
  const found = Networks.find(({ IFName }) => IFName === 'eth0')?.Config;
  if (!found) return undefined;
  return { name: found.Name, source: found.Source, plugins: found.Plugins.map(({ Network }) => Network.type) };
}

export const NETWORK_SHOW: Command = {
  name: 'network show',
  summary: 'the network in use, its plugins, and the addresses of pods',
  peers: ['cri'],
  json: true,
  async run(call) {
    using cri = await criClient(call);
    const { status, info } = await cri.status({ verbose: true });
    const network = currentNetwork(info.cniconfig);
    const condition = status?.conditions.find(({ type }) => type === 'NetworkReady');
    const { items } = await cri.listPodSandbox();
    const ready = items.filter(({ state }) => state === PodSandboxState.SANDBOX_READY);
    const pods = await Promise.all(
      ready.map(async ({ id, metadata }) => {
        const { status: pod } = await cri.podSandboxStatus({ podSandboxId: id });
        const { ip = '', additionalIps = [] } = pod?.network ?? {};
        return {
          pod: fullName(metadata),
          ips: [ip, ...additionalIps.map((one) => one.ip)].filter((one) => one !== ''),
        };
      }),
    );
    if (call.options.json) {
      const { name, source, plugins = [] } = network ?? {};
      printJson(call.out, {
        ready: condition?.status ?? false,
        message: condition?.message,
        name,
        source,
        plugins,
        pods,
      });
      return EXIT.ok.status;
    }
    const { out } = call;
    if (network) {
      out.write(`network: ${network.name}\nfrom:    ${network.source}\nplugins: ${network.plugins.join(', ')}\n`);
    }
    if (!condition?.status) out.write(`NOT READY: ${condition?.reason ?? ''} ${condition?.message ?? ''}\n`);
    out.write('\n');
    printTable(
      out,
      ['POD', 'ADDRESSES'],
      pods.map(({ pod, ips }) => [pod, ips.join(', ') || '(the node’s)']),
    );
    return EXIT.ok.status;
  },
};

interface CheckedPod {
  pod: string;
  network: string;
  /** False: the configuration says that it is not to be checked, or is older than CHECK. */
  checked: boolean;
  failed?: string;
}

export const NETWORK_CHECK: Command = {
  name: 'network check',
  summary: 'whether the network of each pod is still as it was made',
  description:
    'Runs CNI CHECK for every pod that is ready: interfaces, addresses, routes, masquerading and host ports are compared with the result of ADD. Status 1 when something differs.',
  options: [PEER_OPTIONS.config],
  json: true,
  async run({ options, out }) {
    const { root, cni } = loadConfig(typeof options.config === 'string' ? options.config : undefined);
    const { bin_dirs: binDirs, cache_dir: cacheDir, timeout_seconds: seconds, in_process: inProcess } = cni;
    const pods: CheckedPod[] = [];
    for (const { state, network: attachment, config } of readRows(root).sandboxes) {
      if (state !== 'ready' || !attachment) continue;
      const { network } = attachment;
      const result = { pod: fullName(config?.metadata), network: network.name, checked: isChecked(network) };
      try {
        await cniCheck({ attachment, binDirs, cacheDir, timeoutMs: seconds * 1000, inProcess });
        pods.push(result);
      } catch (error) {
        pods.push({ ...result, failed: explain(error) });
      }
    }
    if (options.json) printJson(out, pods);
    else {
      printTable(
        out,
        ['POD', 'NETWORK', 'CHECK'],
        pods.map(({ pod, network, checked, failed }) => [pod, network, failed ?? (checked ? 'ok' : 'not checked')]),
      );
    }
    return pods.some(({ failed }) => failed !== undefined) ? EXIT.failed.status : EXIT.ok.status;
  },
};

export const NETWORK_REMOVE: Command = {
  name: 'network remove',
  summary: 'take the built-in network away, for a node that Sluice leaves',
  description:
    'Removes the bridge of the built-in network, its rules of iptables and its tables of nf_tables. Status 1, and nothing is removed, while the daemon runs or pods have namespaces. Networks of cni.conf_dir are left alone; the next start of the daemon makes the built-in one again.',
  options: [PEER_OPTIONS.config],
  json: true,
  async run(call) {
    const { root, cni } = loadConfig(optionText(call, 'config'));
    // The daemon makes bridge and rules once, so they may not go under it.
    using _lock = existsSync(root) ? lockFile(join(root, LOCK_FILE)) : undefined;
    const pods = existsSync(cni.netns_dir)
      ? readdirSync(cni.netns_dir).filter((name) => isOwnNetns(name, daemonId(root)))
      : [];
    if (pods.length > 0) {
      process.stderr.write(`sluice: ${pods.length} network namespaces of pods are there still: ${cni.netns_dir}\n`);
      return EXIT.failed.status;
    }
    const bridge = builtinBridge(root);
    await closeUplink(bridge);
    if (call.options.json) printJson(call.out, { removed: bridge });
    else call.out.write(`removed: ${bridge} and its rules\n`);
    return EXIT.ok.status;
  },
};
