import type { RuntimeCondition, StatusRequest, StatusResponse } from '../../../proto/gen/cri.ts';
import { noInfo, type Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Kubelet asks every few seconds and takes a slow answer for a sick node, so nothing here waits for anybody. */
export const status =
  (node: Node): Unary<StatusRequest, StatusResponse> =>
  async ({ verbose }) => {
    const network = await node.network.status();
    const conditions: RuntimeCondition[] = [
      { type: 'RuntimeReady', status: true, reason: '', message: '' },
      { type: 'NetworkReady', status: network.ready, reason: network.reason, message: network.message },
    ];
    const handlers = Object.keys(node.config.runtimes).map((name) => handler(node, name, name));
    return {
      status: { conditions },
      info: verbose
        ? { config: JSON.stringify(node.config), cniconfig: JSON.stringify(node.network.current() ?? null) }
        : noInfo(),
      runtimeHandlers: [handler(node, '', node.config.default_runtime), ...handlers],
      features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: false },
    };
  };

function handler(node: Node, name: string, runtime: string) {
  const features = node.features[runtime];
  return {
    name,
    features: {
      recursiveReadOnlyMounts: features?.recursiveReadOnly ?? false,
      userNamespaces: features?.idmap ?? false,
    },
  };
}
