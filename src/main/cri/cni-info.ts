/**
 * CNI configurations and results in the shape in which containerd shows them in the verbose answers of Status and
 * PodSandboxStatus (go-cni's ConfigResult and Result): scripts and network tests read these keys.
 */
import type { Config } from '../../node/config/config.ts';
import type { CniResult, NetworkConf } from '../../workers/net/types.ts';

/** `cniconfig` of Status: the folders, `lo`, and the pods' network on eth0. */
export function cniConfigInfo({ conf_dir, bin_dirs }: Config['cni'], network: NetworkConf | undefined): object {
  return {
    PluginDirs: bin_dirs,
    PluginConfDir: conf_dir,
    PluginMaxConfNum: 1,
    Prefix: 'eth',
    Networks: [
      networkInfo({ name: 'cni-loopback', cniVersion: '0.3.1', plugins: [{ type: 'loopback' }], source: '' }, 'lo'),
      ...(network ? [networkInfo(network, 'eth0')] : []),
    ],
  };
}

function networkInfo({ name, cniVersion, plugins, source }: NetworkConf, ifName: string): object {
  return {
    Config: {
      Name: name,
      CNIVersion: cniVersion,
      Plugins: plugins.map((plugin) => ({ Network: plugin, Source: JSON.stringify(plugin) })),
      Source: source,
    },
    IFName: ifName,
  };
}

/** Every pod of its own network has it, and containerd shows it. */
const LOOPBACK = {
  IPConfigs: ['127.0.0.1', '::1'].map((IP) => ({ IP, Gateway: '' })),
  Mac: '00:00:00:00:00:00',
  PciID: '',
  SocketPath: '',
};

/** `cniResult` of PodSandboxStatus: addresses by interface; those of an interface that has no name belong to eth0. */
export function cniResultInfo({ interfaces = [], ips = [], routes, dns }: CniResult, netns: string): object {
  const shown: Record<string, { IPConfigs: { IP: string; Gateway: string }[] } & Record<string, unknown>> = {
    lo: { ...LOOPBACK, Sandbox: netns },
  };
  for (const { name, mac = '', sandbox = '', pciID = '', socketPath = '' } of interfaces) {
    shown[name] ??= { IPConfigs: [], Mac: mac, Sandbox: sandbox, PciID: pciID, SocketPath: socketPath };
  }
  for (const { address, gateway = '', interface: index } of ips) {
    const name = (index === undefined ? undefined : interfaces[index]?.name) ?? 'eth0';
    shown[name] ??= { IPConfigs: [], Mac: '', Sandbox: '', PciID: '', SocketPath: '' };
    shown[name].IPConfigs.push({ IP: address.split('/', 1)[0] ?? '', Gateway: gateway });
  }
  return { Interfaces: shown, DNS: dns ? [dns] : [], Routes: routes ?? [] };
}
