import { PodSandboxState } from '../../../proto/gen/cri.ts';
import { criClient } from './client.ts';
import { type Command, EXIT, printJson, printTable } from './command.ts';
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
