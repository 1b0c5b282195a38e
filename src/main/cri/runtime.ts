/** The verbs of the runtime itself: its version, its state, and what it and kubelet have to agree on. */
import { CgroupDriver, type RuntimeCondition, type RuntimeHandler } from '../../../proto/gen/cri.ts';
import { VERSION } from '../../version.ts';
import { noInfo, type RuntimeVerbs } from './call.ts';
import { cniConfigInfo } from './cni-info.ts';
import { configInfo } from './containerd-keys.ts';
import type { CriServices } from './services.ts';

export const daemonVerbs = (services: CriServices) =>
  ({
    /** `version` is the version of kubelet's own runtime API, always 0.1.0; the CRI version is `runtimeApiVersion`. */
    version() {
      return { version: '0.1.0', runtimeName: 'sluice', runtimeVersion: VERSION, runtimeApiVersion: 'v1' };
    },

    /** Kubelet asks every few seconds and takes a slow answer for a sick node, so everything here is in memory. */
    async status({ verbose }) {
      const { config } = services;
      const network = await services.network.status();
      const conditions: RuntimeCondition[] = [
        runtimeReady(services.health.reasons),
        { type: 'NetworkReady', status: network.ready, reason: network.reason, message: network.message },
      ];
      const handlers = Object.keys(config.runtimes).map((name) => handler(services, name, name));
      return {
        status: { conditions },
        info: verbose ? statusInfo(services) : noInfo(),
        runtimeHandlers: [handler(services, '', config.default_runtime), ...handlers],
        features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: true, mountOptions: true },
      };
    },

    /** The cgroup driver that kubelet has to use, so that both write the same tree. */
    runtimeConfig() {
      const systemd = services.host.cgroupDriver === 'systemd';
      return { linux: { cgroupDriver: systemd ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS } };
    },

    /**
     * The node's pod CIDR. CNI plugins have their ranges in their own configuration, so the log records it and nothing
     * uses it.
     */
    updateRuntimeConfig({ runtimeConfig }) {
      services.log.info({ podCidr: runtimeConfig?.networkConfig?.podCidr ?? '' }, 'kubelet sent the pod CIDR');
      return {};
    },
  }) satisfies Partial<RuntimeVerbs>;

function runtimeReady(reasons: readonly string[]): RuntimeCondition {
  const ready = reasons.length === 0;
  return { type: 'RuntimeReady', status: ready, reason: ready ? '' : 'RuntimeNotReady', message: reasons.join('; ') };
}

/**
 * The keys that scripts read in `crictl info` with containerd, and what `sluice config diff` asks (`sluice`,
 * `runtimesInUse`); each value is JSON.
 */
function statusInfo({ config, host, images, network, store }: CriServices): Record<string, string> {
  const { network: current, problems } = network.loaded;
  const cniStatus = JSON.stringify(current ? 'OK' : problems.join('; '));
  const systemd = host.cgroupDriver === 'systemd';
  return {
    config: JSON.stringify(configInfo(config, { systemd, snapshotter: images.snapshotterName })),
    sluice: JSON.stringify(config),
    runtimesInUse: JSON.stringify([...store.runtimesInUse()]),
    cniconfig: JSON.stringify(cniConfigInfo(config.cni, current)),
    lastCNILoadStatus: cniStatus,
    'lastCNILoadStatus.default': cniStatus,
    golang: JSON.stringify(`none (Node ${process.version})`),
  };
}

function handler({ features }: CriServices, name: string, runtime: string): RuntimeHandler {
  return {
    name,
    features: {
      recursiveReadOnlyMounts: features[runtime]?.recursiveReadOnly ?? false,
      userNamespaces: features[runtime]?.idmap ?? false,
    },
  };
}
